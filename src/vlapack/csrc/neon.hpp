// What the two NEON instruction sets share. Internal linkage, as in float_kernels.hpp.
//
// Both multiply s8 x s8. A nibble w + 8 is a positive s8 as well. An 8-bit weight is stored as w + 128; flipping its top
// bit makes it w, and the 128 times the sum of the activations, by which every other instruction set is too large, is
// added to the sums.
#pragma once

#include <arm_neon.h>

#include "attention_kernels.hpp"
#include "float_kernels.hpp"
#include "gradient_kernel.hpp"

namespace vlapack {
namespace {

struct Vector {
  using Register = float32x4_t;
  static constexpr int kLanes = 4;
  static constexpr int kColumns = 4;
  static Register load(const float* from) { return vld1q_f32(from); }
  static void store(float* to, Register value) { vst1q_f32(to, value); }
  static Register broadcast(float value) { return vdupq_n_f32(value); }
  using Integers = int32x4_t;
  static Integers load(const int32_t* from) { return vld1q_s32(from); }
  static void store(int32_t* to, Integers value) { vst1q_s32(to, value); }
  static Integers broadcast(int32_t value) { return vdupq_n_s32(value); }
  static Register real(Integers value) { return vcvtq_f32_s32(value); }
  template <int Half>
  static Register exchange(Register x) {
    if constexpr (Half == 1) return vrev64q_f32(x);
    if constexpr (Half == 2) return vextq_f32(x, x, 2);
  }
  static Register fma(Register a, Register b, Register c) { return vfmaq_f32(c, a, b); }
  static Register larger(Register a, Register b) { return vmaxq_f32(a, b); }
};

struct Back {
  using Register = float32x4_t;
  static constexpr int kLanes = 4, kRows = 6;
  static Register zero() { return vdupq_n_f32(0); }
  static Register load(const float* from) { return vld1q_f32(from); }
  static Register fma(Register a, Register b, Register c) { return vfmaq_f32(c, a, b); }
  static Register scaled(Register x, Register by) { return vmulq_f32(x, by); }
  template <int Offset>
  static void widen(Sixteen bytes, Register (&numbers)[4]) {
    const uint8x16_t all = reinterpret_cast<uint8x16_t>(bytes);
    const uint16x8_t halves[] = {vmovl_u8(vget_low_u8(all)), vmovl_u8(vget_high_u8(all))};
    for (int i = 0; i < 4; ++i) {
      const uint16x4_t four = i % 2 ? vget_high_u16(halves[i / 2]) : vget_low_u16(halves[i / 2]);
      numbers[i] = vsubq_f32(vcvtq_f32_u32(vmovl_u16(four)), vdupq_n_f32(Offset));
    }
  }
  static void add_fours(float* to, Register x) { vst1q_f32(to, vaddq_f32(vld1q_f32(to), x)); }
};

constexpr AttentionKernels kAttention = attention_kernels<Widened<Vector, 6, 4>>();

// What sums of signed weights lack: they began at -128 times the sum of a row's activations.
inline int32_t surplus(const Part& part, int rows, int row) {
  int32_t sum = 0;
  for (int64_t t = 0; t < 2 * part.steps; ++t)
    for (int j = 0; j < 4; ++j) sum += part.activations[(t * rows + row) * 4 + j];
  return 128 * sum;
}

// Products and sums (two operations each) of one instruction on registers alone, which is what `Multiply` does.
template <int kProducts, typename Multiply>
int64_t peak_of(int64_t rounds, Multiply multiply) {
  int32x4_t sums[16];
  for (int32x4_t& sum : sums) sum = vdupq_n_s32(0);
  int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(-5);
  for (int64_t i = 0; i < rounds; ++i) {
    asm volatile("" : "+w"(a), "+w"(b));
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) sums[j] = multiply(sums[j], a, b);
  }
  for (int32x4_t& sum : sums) asm volatile("" : : "w"(sum));
  return rounds * 16 * kProducts * 2;
}

inline int8x16_t signed_weights(const uint8_t* from) {
  return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(from), vdupq_n_u8(128)));
}

}  // namespace
}  // namespace vlapack
