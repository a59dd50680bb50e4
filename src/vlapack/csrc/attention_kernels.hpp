// Attention of some rows: two products of pairs of bf16 and the softmax between them.
//
// Included by each instruction set's file, as float_kernels.hpp is, and with internal linkage for the same reason.
//
// Scratch memory is cut into slots of 128 bytes, [block][row]: the 32 numbers of one block of one row, as fp32 or, in the
// first half, as bf16. So every factor of a product is at a constant distance from the first row's. Queries take the
// first slots. The scores of a block of keys take one slot per row, in which the softmax leaves its weights.
//
//     for each block of 32 keys:                      scores = queries x keys         tile: rows x 32 keys
//     for each row:                                   weights = exp((scores - most) / √D), rounded to bf16
//     for each block of 32 channels:                  out = weights x values / sum    tile: rows x 32 channels
//
// Scores stay in fp32. The weights are rounded before they are divided by their sum, which is the sum of what they were
// rounded to: so they add up to 1, and values that are all the same come out as they were.
#pragma once

#include <cstring>

#include "attention.hpp"
#include "exponential.hpp"
#include "outputs.hpp"
#include "with_rows.hpp"

namespace vlapack {
namespace {

constexpr float kHidden = -__builtin_inff();

template <class V>
void exponentials(const float* x, int64_t count, float* y) {
  for (int64_t i = 0; i < count; i += V::kLanes) V::store(y + i, exponential<V>(V::load(x + i)));
}

// How pairs of bf16 are multiplied where no instruction does: each is an fp32 whose low bits are missing.
//
// A class like this one has `kRows`, the most rows of a tile, `kVectors`, the registers across it, `Factor`, what the
// scratch memory holds in place of a bf16, and `kHalves`, how many additions a pair takes.
template <class V, int Rows, int Vectors>
struct Widened {
  using Vector = V;
  using Register = typename V::Register;
  using Pair = typename Words<V::kLanes>::Register;  // a pair of bf16 in each lane
  using Factor = float;
  static constexpr int kRows = Rows;
  static constexpr int kVectors = Vectors;
  static constexpr int kHalves = 2;

  template <int Half>
  static Register half(Pair pairs) {
    if constexpr (Half == 0)
      return as<Register>(Pair(pairs << 16));
    else
      return as<Register>(Pair(pairs & 0xffff0000u));
  }
  static Register add(Register sum, const float* factor, Register half) {
    return V::fma(V::broadcast(*factor), half, sum);
  }
  static void take(const uint16_t* row, int64_t count, float* slot) {
    for (int64_t i = 0; i < count; ++i) slot[i] = widen(row[i]);
  }
  // Rounds weights, half to even, into their slot; returns their sums.
  static Register keep(const Register (&weights)[kBlock / V::kLanes], Register sums, float* slot) {
    for (int i = 0; i < kBlock / V::kLanes; ++i) {
      const Pair bits = as<Pair>(weights[i]);
      const Register rounded = as<Register>(Pair((bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u));
      V::store(slot + i * V::kLanes, rounded);
      sums = sums + rounded;
    }
    return sums;
  }
};

template <class M>
constexpr int64_t kSlot = 128 / sizeof(typename M::Factor);

template <class M, int Half, int Rows, int Vectors>
inline void add_halves(typename M::Vector::Register (&sums)[Rows][Vectors], const typename M::Factor* factors,
                       const typename M::Pair (&pairs)[Vectors]) {
  decltype(M::template half<Half>(pairs[0])) halves[Vectors];
#pragma GCC unroll 16
  for (int v = 0; v < Vectors; ++v) halves[v] = M::template half<Half>(pairs[v]);
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < Vectors; ++v) sums[r][v] = M::add(sums[r][v], factors + r * kSlot<M> + Half, halves[v]);
}

// out[r][0 .. Vectors * lanes) = sum over pairs of factors[r][pair] * b[pair][..]; `step` elements from pair to pair.
template <class M, int Rows, int Vectors>
inline void multiply(const typename M::Factor* factors, const uint16_t* b, int64_t step, int64_t pairs, float* out) {
  using V = typename M::Vector;
  constexpr int64_t kPairs = kBlock / 2;
  typename V::Register sums[Rows][Vectors];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < Vectors; ++v) sums[r][v] = V::broadcast(0.0f);
  for (; pairs > 0; pairs -= kPairs, factors += Rows * kSlot<M>)
    for (int64_t i = 0; i < (pairs < kPairs ? pairs : kPairs); ++i, b += step) {
      typename M::Pair here[Vectors];
#pragma GCC unroll 16
      for (int v = 0; v < Vectors; ++v) std::memcpy(&here[v], b + 2 * v * V::kLanes, sizeof(here[v]));
      add_halves<M, 0>(sums, factors + 2 * i, here);
      if constexpr (M::kHalves == 2) add_halves<M, 1>(sums, factors + 2 * i, here);
    }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < Vectors; ++v) V::store(out + r * kBlock + v * V::kLanes, sums[r][v]);
}

// A block's columns, 32 or at the end fewer, of which 16 at a time are computed.
template <class M, int Rows>
inline void multiply_block(const typename M::Factor* factors, const uint16_t* b, int64_t step, int64_t pairs,
                           int64_t columns, float* out) {
  constexpr int kHalf = 16 / M::Vector::kLanes;
  if constexpr (M::kVectors == 2 * kHalf)
    if (columns > 16) return multiply<M, Rows, M::kVectors>(factors, b, step, pairs, out);
  for (int64_t c = 0; c < (columns > 16 ? 32 : 16); c += 16)
    multiply<M, Rows, kHalf>(factors, b + 2 * c, step, pairs, out + c);
}

// All lanes as one, halves at a time: a chain of additions would be as long as the register.
template <class V, class Operation>
inline float folded(typename V::Register value, const Operation& operation) {
  float lanes[V::kLanes];
  V::store(lanes, value);
#pragma GCC unroll 4
  for (int half = V::kLanes / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) lanes[i] = operation(lanes[i], lanes[i + half]);
  return lanes[0];
}

// The scores of one row, `step` floats from block to block, become weights; returns 1 / their sum.
template <class M>
inline float softmax(float* scores, int64_t step, int64_t blocks, float scale) {
  using V = typename M::Vector;
  using Register = typename V::Register;
  constexpr int kVectors = kBlock / V::kLanes;
  Register most = V::broadcast(kHidden);
  for (int64_t n = 0; n < blocks; ++n)
    for (int v = 0; v < kVectors; ++v) most = V::larger(most, V::load(scores + n * step + v * V::kLanes));
  const Register top = V::broadcast(folded<V>(most, [](float a, float b) { return a > b ? a : b; }));

  Register sums = V::broadcast(0.0f);
  for (int64_t n = 0; n < blocks; ++n) {
    float* slot = scores + n * step;
    Register weights[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      weights[v] = exponential<V>((V::load(slot + v * V::kLanes) - top) * V::broadcast(scale));
    sums = M::keep(weights, sums, reinterpret_cast<typename M::Factor*>(slot));
  }
  return 1.0f / folded<V>(sums, [](float a, float b) { return a + b; });
}

template <class M, int Rows>
void attend_rows(const AttentionRows& job) {
  using Factor = typename M::Factor;
  constexpr int64_t kStep = Rows * kBlock;  // floats from block to block
  const int64_t blocks = (job.tokens + kBlock - 1) / kBlock;
  float* scores = job.scratch + (job.width + kBlock - 1) / kBlock * kStep;
  const auto weights = reinterpret_cast<const Factor*>(scores);

  float* slot = job.scratch;
  for (int64_t c = 0; c < job.width; c += kBlock)
    for (int r = 0; r < Rows; ++r, slot += kBlock)
      M::take(job.query[r] + c, job.width - c < kBlock ? job.width - c : kBlock, reinterpret_cast<Factor*>(slot));

  for (int64_t n = 0; n < blocks; ++n)
    multiply_block<M, Rows>(reinterpret_cast<const Factor*>(job.scratch), job.keys + n * kBlock * job.width, 2 * kBlock,
                            job.width / 2, job.tokens - n * kBlock, scores + n * kStep);

  for (int r = 0; r < Rows; ++r)
    for (int64_t n = job.seen[r] / kBlock, first = job.seen[r] % kBlock; n < blocks; ++n, first = 0)
      for (int64_t i = first; i < kBlock; ++i) scores[n * kStep + r * kBlock + i] = kHidden;
  for (int64_t t = 0; job.exists && t < job.prefix; ++t)
    for (int r = 0; !job.exists[t] && r < Rows; ++r) scores[t / kBlock * kStep + r * kBlock + t % kBlock] = kHidden;

  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(job.width));
  float inverse[Rows], out[Rows * kBlock];
  for (int r = 0; r < Rows; ++r) inverse[r] = softmax<M>(scores + r * kBlock, kStep, blocks, scale);

  for (int64_t c = 0; c < job.width; c += kBlock) {
    const int64_t columns = job.width - c < kBlock ? job.width - c : kBlock;
    multiply_block<M, Rows>(weights, job.values + 2 * c, 2 * job.padded_width, (job.tokens + 1) / 2, columns, out);
    for (int r = 0; r < Rows; ++r) {
      const float* from = out + r * kBlock;
      uint16_t* to = job.out[r] + c;
      if (columns == kBlock)  // a loop whose length the compiler knows
        for (int i = 0; i < kBlock; ++i) to[i] = narrow(from[i] * inverse[r]);
      else
        for (int64_t i = 0; i < columns; ++i) to[i] = narrow(from[i] * inverse[r]);
    }
  }
}

template <class M>
void attend_some(const AttentionRows& job) {
  with_rows<M::kRows>(job.rows, [&](auto rows) { attend_rows<M, rows>(job); });
}

template <class M>
constexpr AttentionKernels attention_kernels() {
  return {M::kRows, attend_some<M>, exponentials<typename M::Vector>};
}

}  // namespace
}  // namespace vlapack
