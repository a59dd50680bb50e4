// What every instruction set leaves to its compiler: the activation step, and what stands around a product.
//
// Included once by each instruction set's file and compiled with that file's flags, so everything here has internal
// linkage: a shared inline function could be linked in from the file with the widest instructions.
//
// `V` is that set's vector of floats: `Register`, which has + - *, `kLanes`, `kColumns` (vectors across a tile of the
// rotation), load, store, broadcast, fma, exchange.
#pragma once

#include <cstring>

#include "beginning.hpp"
#include "hadamard.hpp"
#include "kernels.hpp"
#include "outputs.hpp"
#include "plain_kernel.hpp"
#include "sums.hpp"
#include "turn_kernel.hpp"
#include "with_rows.hpp"

namespace vlapack {
namespace {

constexpr int kRows = 6;  // of an activation's tile: with kColumns vectors each, the sums that fit into registers

using Bits __attribute__((may_alias)) = int32_t;
constexpr Bits kInfinity = 0x7f800000;

// Half to even, for |value| < 2^22, in the default rounding mode.
inline float round_even(float value) {
  constexpr float magic = 12582912.0f;  // 1.5 * 2^23: from here on floats are whole numbers
  return (value + magic) - magic;
}

// y[r][0 .. C * lanes) = sum over k of x[r][order[k]] * block[k][..]; without `Ordered` the channels are as they stand.
template <class V, int Rows, int C, bool Ordered>
inline void rotate_tile(const float* x, int64_t pitch, const int32_t* order, const float* block, const Blocks& blocks,
                        float* y) {
  typename V::Register sums[Rows][C];
  const float* rows[Rows];
  for (int r = 0; r < Rows; ++r) {
    rows[r] = x + r * pitch;
    for (int c = 0; c < C; ++c) sums[r][c] = V::broadcast(0.0f);
  }
  for (int64_t k = 0; k < blocks.size; ++k, block += blocks.padded) {
    typename V::Register row[C];
    for (int c = 0; c < C; ++c) row[c] = V::load(block + c * V::kLanes);
    const int64_t channel = Ordered ? order[k] : k;
    for (int r = 0; r < Rows; ++r) {
      const typename V::Register value = V::broadcast(rows[r][channel]);
      for (int c = 0; c < C; ++c) sums[r][c] = V::fma(value, row[c], sums[r][c]);
    }
  }
  for (int r = 0; r < Rows; ++r)
    for (int c = 0; c < C; ++c) V::store(y + r * pitch + c * V::kLanes, sums[r][c]);
}

// Rotates rows block by block; `order` is a permutation on the way in. The vectors of a narrow block write zeros into the
// block after it, which comes later, or into the slack behind the row.
template <class V, int Rows, bool Ordered>
void rotate(const float* x, int64_t pitch, int64_t channels, const int32_t* order, const Blocks& blocks, float* y) {
  for (int64_t g = 0, first = 0; first < channels; ++g, first += blocks.size) {
    const float* block = blocks.data + (blocks.count == 1 ? 0 : g) * blocks.size * blocks.padded;
    const float* from = Ordered ? x : x + first;
    const int32_t* places = Ordered ? order + first : nullptr;
    int64_t c = 0;
    for (; c + V::kColumns * V::kLanes <= blocks.padded; c += V::kColumns * V::kLanes)
      rotate_tile<V, Rows, V::kColumns, Ordered>(from, pitch, places, block + c, blocks, y + first + c);
    for (; c < blocks.padded; c += V::kLanes)
      rotate_tile<V, Rows, 1, Ordered>(from, pitch, places, block + c, blocks, y + first + c);
  }
}

template <class V, bool Ordered>
void rotate_rows(int rows, const float* x, int64_t pitch, int64_t channels, const int32_t* order, const Blocks& blocks,
                 float* y) {
  switch (rows) {
    case 1: return rotate<V, 1, Ordered>(x, pitch, channels, order, blocks, y);
    case 2: return rotate<V, 2, Ordered>(x, pitch, channels, order, blocks, y);
    case 3: return rotate<V, 3, Ordered>(x, pitch, channels, order, blocks, y);
    case 4: return rotate<V, 4, Ordered>(x, pitch, channels, order, blocks, y);
    case 5: return rotate<V, 5, Ordered>(x, pitch, channels, order, blocks, y);
    case 6: return rotate<V, 6, Ordered>(x, pitch, channels, order, blocks, y);
  }
}

inline void gather_row(const float* __restrict x, const int32_t* __restrict order, int64_t channels,
                       float* __restrict y) {
#pragma GCC unroll 8
  for (int64_t k = 0; k < channels; ++k) y[k] = x[order[k]];
}

inline bool by_products(const Blocks& blocks) { return blocks.data && blocks.hadamard == 0.0f; }

// All steps, back and forth between the two buffers; returns the one with the result.
template <class V>
float* transform(const Steps& steps, const Rows& job) {
  const int64_t channels = job.channels, pitch = channels + kSlack;
  const int rows = static_cast<int>(job.rows);
  float* ready = job.scratch;
  float* other = job.scratch + job.rows * pitch;
  const auto swap = [&] {
    float* last = ready;
    ready = other;
    other = last;
  };
  const auto apply = [&](const Blocks& blocks) {
    if (by_products(blocks)) {
      rotate_rows<V, false>(rows, ready, pitch, channels, nullptr, blocks, other);
      return swap();
    }
    for (int r = 0; blocks.data && r < job.rows; ++r)
      for (float *y = ready + r * pitch, *end = y + channels; y < end; y += blocks.size)
        hadamard<V>(y, blocks.size, blocks.hadamard);
  };
  for (int r = 0; r < job.rows; ++r) {
    float* y = ready + r * pitch;
    begin_row<V>(job, r, y);
    for (int64_t k = 0; steps.smooth && k < channels; ++k) y[k] /= steps.smooth[k];
  }
  apply(steps.pre_rotation);
  if (steps.permutation && by_products(steps.rotation)) {
    rotate_rows<V, true>(rows, ready, pitch, channels, steps.permutation, steps.rotation, other);
    swap();
    return ready;
  }
  if (steps.permutation) {
    for (int r = 0; r < job.rows; ++r) gather_row(ready + r * pitch, steps.permutation, channels, other + r * pitch);
    swap();
  }
  apply(steps.rotation);
  return ready;
}

template <class Quotient>
inline void round_values(const float* __restrict y, int64_t channels, float largest, int8_t* __restrict q,
                         Quotient quotient) {
  for (int64_t k = 0; k < channels; ++k) {
    float value = quotient(y[k]);
    value = value > largest ? largest : value;
    value = value < -largest ? -largest : value;
    q[k] = static_cast<int8_t>(static_cast<int32_t>(round_even(value)));
  }
}

// One row into integers, by division, as the definition says. What was rotated is not exact anyway: there the reciprocal
// will do, which takes a tenth of the time, unless it overflows. What is not finite makes the row's scale NaN.
inline float round_row(const float* __restrict y, int64_t channels, const float* scale, float largest, bool rotated,
                       int8_t* __restrict q) {
  Bits peak = 0;
  const Bits* bits = reinterpret_cast<const Bits*>(y);
  for (int64_t k = 0; k < channels; ++k) {
    const Bits magnitude = bits[k] & 0x7fffffff;
    peak = magnitude > peak ? magnitude : peak;
  }
  float step;
  std::memcpy(&step, &peak, 4);
  if (peak >= kInfinity) {
    std::memset(q, 0, static_cast<size_t>(channels));
    return __builtin_nanf("");
  }
  step = scale ? *scale : step / largest;
  if (step == 0.0f) step = 1.0f;
  const float reciprocal = 1.0f / step;
  if (rotated && step > 1e-30f)
    round_values(y, channels, largest, q, [=](float value) { return value * reciprocal; });
  else
    round_values(y, channels, largest, q, [=](float value) { return value / step; });
  return step;
}

inline void narrow_row(const float* __restrict y, int64_t channels, uint16_t* __restrict out) {
  for (int64_t k = 0; k < channels; ++k) out[k] = narrow(y[k]);
}

template <class V>
void some_rows(const Steps& steps, const Rows& job) {
  const float* y = transform<V>(steps, job);
  const int64_t channels = job.channels;
  const bool rotated = steps.pre_rotation.data || steps.rotation.data;
  for (int r = 0; r < job.rows; ++r, y += channels + kSlack) {
    if (job.out && job.out_kind == Float::f32)
      std::memcpy(static_cast<float*>(job.out) + r * channels, y, static_cast<size_t>(channels) * sizeof(float));
    else if (job.out)
      narrow_row(y, channels, static_cast<uint16_t*>(job.out) + r * channels);
    else
      job.s[r] = round_row(y, channels, job.scale, job.largest, rotated, job.q + r * channels);
  }
}

// Products want several rows at once, for each of the block's numbers that they read; what needs none stays in the first
// cache row by row.
template <class V>
void activation(const Steps& steps, const Rows& job) {
  if (by_products(steps.pre_rotation) || by_products(steps.rotation)) return some_rows<V>(steps, job);
  for (int r = 0; r < job.rows; ++r) some_rows<V>(steps, some(job, r, 1));
}

template <class Out>
void finish_rows(const Outputs& job) {
  Out* out = static_cast<Out*>(job.out);
  for (int r = 0; r < job.rows; ++r, out += job.pitch) {
    const float* partial = job.partial + r * kPanel;
    if (job.columns == kPanel)  // a loop whose length the compiler knows
      finish_row(partial, job.s[r], job.bias, kPanel, out);
    else
      finish_row(partial, job.s[r], job.bias, job.columns, out);
  }
}

void finish(const Outputs& job) { job.kind == Float::f32 ? finish_rows<float>(job) : finish_rows<uint16_t>(job); }

}  // namespace
}  // namespace vlapack
