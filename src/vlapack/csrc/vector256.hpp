// What the instruction sets on 256-bit registers share. Internal linkage, as in float_kernels.hpp.
#pragma once

#include <immintrin.h>

#include "attention_kernels.hpp"
#include "float_kernels.hpp"
#include "gradient_kernel.hpp"

namespace vlapack {
namespace {

struct Vector {
  using Register = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kColumns = 2;
  static Register load(const float* from) { return _mm256_loadu_ps(from); }
  static void store(float* to, Register value) { _mm256_storeu_ps(to, value); }
  static Register broadcast(float value) { return _mm256_set1_ps(value); }
  using Integers = __m256i;
  static Integers load(const int32_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
  static void store(int32_t* to, Integers value) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value); }
  static Integers broadcast(int32_t value) { return _mm256_set1_epi32(value); }
  static Register real(Integers value) { return _mm256_cvtepi32_ps(value); }
  template <int Half>
  static Register exchange(Register x) {
    if constexpr (Half == 1) return _mm256_permute_ps(x, 0xb1);
    if constexpr (Half == 2) return _mm256_permute_ps(x, 0x4e);
    if constexpr (Half == 4) return _mm256_permute2f128_ps(x, x, 1);
  }
  static Register fma(Register a, Register b, Register c) { return _mm256_fmadd_ps(a, b, c); }
  static Register larger(Register a, Register b) { return _mm256_max_ps(a, b); }  // b where either is NaN
};

struct Back {
  using Register = __m256;
  static constexpr int kLanes = 8, kRows = 6;
  static Register zero() { return _mm256_setzero_ps(); }
  static Register load(const float* from) { return _mm256_load_ps(from); }
  static Register fma(Register a, Register b, Register c) { return _mm256_fmadd_ps(a, b, c); }
  static Register scaled(Register x, Register by) { return x * by; }
  template <int Offset>
  static void widen(Sixteen bytes, Register (&numbers)[2]) {
    const __m128i sixteen = reinterpret_cast<__m128i>(bytes);
    numbers[0] = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(sixteen)) - static_cast<float>(Offset);
    numbers[1] = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(sixteen, 8))) - static_cast<float>(Offset);
  }
  static void add_fours(float* to, Register x) {
    const __m128 four = _mm256_castps256_ps128(x) + _mm256_extractf128_ps(x, 1);
    _mm_storeu_ps(to, _mm_loadu_ps(to) + four);
  }
};

constexpr AttentionKernels kAttention = attention_kernels<Widened<Vector, 6, 2>>();

inline __m256i four(const int8_t* activations) {
  int32_t word;
  std::memcpy(&word, activations, 4);
  return _mm256_set1_epi32(word);
}

inline __m256i load(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }

}  // namespace
}  // namespace vlapack
