// The floating-point half of every instruction set: the activation step, and the scaling after a product.
//
// Included once by each instruction set's file and compiled with that file's flags, so everything here has internal
// linkage: a shared inline function could be linked in from the file with the widest instructions.
//
// `V` is that set's vector of floats: `Register`, `kLanes`, `kColumns` (vectors across a tile of the rotation), load,
// store, broadcast, fma.
#pragma once

#include <cstring>

#include "kernels.hpp"

namespace vlapack {
namespace {

constexpr int kRows = 6;  // of an activation's tile: with kColumns vectors each, the sums that fit into registers

using Bits __attribute__((may_alias)) = int32_t;
constexpr Bits kInfinity = 0x7f800000;

inline float widen(float value) { return value; }
inline float widen(uint16_t bf16) {
  const uint32_t bits = static_cast<uint32_t>(bf16) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline uint16_t narrow(float value) {  // to bf16, half to even; NaN as torch writes it
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

// Half to even, for |value| < 2^22, in the default rounding mode.
inline float round_even(float value) {
  constexpr float magic = 12582912.0f;  // 1.5 * 2^23: from here on floats are whole numbers
  return (value + magic) - magic;
}

// y[r][0 .. C * lanes) = sum over k of x[k][r] * block[k][..]; `x` is [size][Rows].
template <class V, int Rows, int C>
inline void rotate_tile(const float* x, const float* block, const Blocks& blocks, float* y, int64_t pitch) {
  typename V::Register sums[Rows][C];
  for (int r = 0; r < Rows; ++r)
    for (int c = 0; c < C; ++c) sums[r][c] = V::broadcast(0.0f);
  for (int64_t k = 0; k < blocks.size; ++k, x += Rows, block += blocks.padded) {
    typename V::Register row[C];
    for (int c = 0; c < C; ++c) row[c] = V::load(block + c * V::kLanes);
    for (int r = 0; r < Rows; ++r) {
      const typename V::Register value = V::broadcast(x[r]);
      for (int c = 0; c < C; ++c) sums[r][c] = V::fma(value, row[c], sums[r][c]);
    }
  }
  for (int r = 0; r < Rows; ++r)
    for (int c = 0; c < C; ++c) V::store(y + r * pitch + c * V::kLanes, sums[r][c]);
}

// Rotates `Rows` rows, block by block; `order` (or null) is a permutation on the way in. The vectors of a narrow block
// write zeros into the block after it, which comes later, or into the slack behind the row.
template <class V, int Rows, class Source>
void rotate(const Source* x, int64_t pitch, int64_t channels, const int32_t* order, const Blocks& blocks, float* y,
            int64_t y_pitch) {
  constexpr int64_t kMost = 64;
  float columns[kMost * Rows];
  float* held = blocks.size <= kMost ? columns : new float[static_cast<size_t>(blocks.size * Rows)];
  for (int64_t g = 0, first = 0; first < channels; ++g, first += blocks.size) {
    for (int64_t k = 0; k < blocks.size; ++k) {
      const int64_t channel = order ? order[first + k] : first + k;
      for (int r = 0; r < Rows; ++r) held[k * Rows + r] = widen(x[r * pitch + channel]);
    }
    const float* block = blocks.data + (blocks.count == 1 ? 0 : g) * blocks.size * blocks.padded;
    int64_t c = 0;
    for (; c + V::kColumns * V::kLanes <= blocks.padded; c += V::kColumns * V::kLanes)
      rotate_tile<V, Rows, V::kColumns>(held, block + c, blocks, y + first + c, y_pitch);
    for (; c < blocks.padded; c += V::kLanes)
      rotate_tile<V, Rows, 1>(held, block + c, blocks, y + first + c, y_pitch);
  }
  if (held != columns) delete[] held;
}

template <class V, class Source>
void rotate_rows(int rows, const Source* x, int64_t pitch, int64_t channels, const int32_t* order,
                 const Blocks& blocks, float* y, int64_t y_pitch) {
  switch (rows) {
    case 1: return rotate<V, 1>(x, pitch, channels, order, blocks, y, y_pitch);
    case 2: return rotate<V, 2>(x, pitch, channels, order, blocks, y, y_pitch);
    case 3: return rotate<V, 3>(x, pitch, channels, order, blocks, y, y_pitch);
    case 4: return rotate<V, 4>(x, pitch, channels, order, blocks, y, y_pitch);
    case 5: return rotate<V, 5>(x, pitch, channels, order, blocks, y, y_pitch);
    case 6: return rotate<V, 6>(x, pitch, channels, order, blocks, y, y_pitch);
  }
}

// The last steps, from `x` into `y`: reorder, rotate, or only widen.
template <class V, class Source>
void reorder_and_rotate(const Steps& steps, const Rows& job, const Source* x, int64_t pitch, float* y,
                        int64_t y_pitch) {
  if (steps.rotation.data)
    return rotate_rows<V>(job.rows, x, pitch, job.channels, steps.permutation, steps.rotation, y, y_pitch);
  for (int r = 0; r < job.rows; ++r, x += pitch, y += y_pitch) {
    if (steps.permutation)
      for (int64_t k = 0; k < job.channels; ++k) y[k] = widen(x[steps.permutation[k]]);
    else
      for (int64_t k = 0; k < job.channels; ++k) y[k] = widen(x[k]);
  }
}

// All steps: smooth and the first rotation, where there are any, need the whole row before the others begin.
template <class V, class Source>
void transform_rows(const Steps& steps, const Rows& job, const Source* x, float* y, int64_t y_pitch, float* spare) {
  const int64_t pitch = job.channels + kSlack;
  const float* ready = nullptr;
  if (steps.smooth) {
    for (int r = 0; r < job.rows; ++r)
      for (int64_t k = 0; k < job.channels; ++k) spare[r * pitch + k] = widen(x[r * job.pitch + k]) / steps.smooth[k];
    ready = spare;
  }
  if (steps.pre_rotation.data) {
    if (ready) {
      rotate_rows<V>(job.rows, ready, pitch, job.channels, nullptr, steps.pre_rotation, y, y_pitch);
      for (int r = 0; r < job.rows; ++r)
        std::memcpy(spare + r * pitch, y + r * y_pitch, static_cast<size_t>(job.channels) * sizeof(float));
    } else {
      rotate_rows<V>(job.rows, x, job.pitch, job.channels, nullptr, steps.pre_rotation, spare, pitch);
    }
    ready = spare;
  }
  if (ready)
    reorder_and_rotate<V>(steps, job, ready, pitch, y, y_pitch);
  else
    reorder_and_rotate<V>(steps, job, x, job.pitch, y, y_pitch);
}

// One row of y into integers. By division, as the definition says; what is not finite makes the row's scale NaN.
inline void round_row(const Rows& job, const float* y, int64_t r) {
  int8_t* q = job.q + r * job.channels;
  Bits peak = 0;
  const Bits* bits = reinterpret_cast<const Bits*>(y);
  for (int64_t k = 0; k < job.channels; ++k) {
    const Bits magnitude = bits[k] & 0x7fffffff;
    peak = magnitude > peak ? magnitude : peak;
  }
  float step;
  std::memcpy(&step, &peak, 4);
  step /= job.largest;
  if (job.scale) step = *job.scale;
  if (step == 0.0f) step = 1.0f;
  if (peak >= kInfinity) {
    const uint32_t nan = 0x7fc00000u;
    std::memcpy(&job.s[r], &nan, 4);
    std::memset(q, 0, static_cast<size_t>(job.channels));
    return;
  }
  job.s[r] = step;
  const float largest = job.largest;
  for (int64_t k = 0; k < job.channels; ++k) {
    float value = y[k] / step;
    value = value > largest ? largest : value;
    value = value < -largest ? -largest : value;
    q[k] = static_cast<int8_t>(static_cast<int32_t>(round_even(value)));
  }
}

template <class V, class Source>
void activation_of(const Steps& steps, const Rows& job, const Source* x) {
  const int64_t pitch = job.channels + kSlack;
  float* y = job.scratch;
  transform_rows<V>(steps, job, x, y, pitch, job.scratch + job.rows * pitch);
  for (int r = 0; r < job.rows; ++r) {
    if (job.out)
      std::memcpy(job.out + r * job.channels, y + r * pitch, static_cast<size_t>(job.channels) * sizeof(float));
    else
      round_row(job, y + r * pitch, r);
  }
}

template <class V>
void activation(const Steps& steps, const Rows& job) {
  if (job.kind == Float::f32)
    activation_of<V>(steps, job, static_cast<const float*>(job.x));
  else
    activation_of<V>(steps, job, static_cast<const uint16_t*>(job.x));
}

void scale(const int32_t* sums, const float* weight_scale, bool first, int rows, float* partial) {
  for (int r = 0; r < rows; ++r, sums += kPanel, partial += kPanel) {
    if (first)
      for (int c = 0; c < kPanel; ++c) partial[c] = static_cast<float>(sums[c]) * weight_scale[c];
    else
      for (int c = 0; c < kPanel; ++c) partial[c] += static_cast<float>(sums[c]) * weight_scale[c];
  }
}

inline void finish_row(const float* partial, float s, const float* bias, int columns, float* out) {
  for (int c = 0; c < columns; ++c) out[c] = partial[c] * s;
  if (bias)
    for (int c = 0; c < columns; ++c) out[c] += bias[c];
}

void finish(const Outputs& job) {
  float row[kPanel];
  for (int r = 0; r < job.rows; ++r) {
    const float* partial = job.partial + r * kPanel;
    if (job.kind == Float::f32) {
      finish_row(partial, job.s[r], job.bias, job.columns, static_cast<float*>(job.out) + r * job.pitch);
      continue;
    }
    finish_row(partial, job.s[r], job.bias, job.columns, row);
    uint16_t* out = static_cast<uint16_t*>(job.out) + r * job.pitch;
    for (int c = 0; c < job.columns; ++c) out[c] = narrow(row[c]);
  }
}

}  // namespace
}  // namespace vlapack
