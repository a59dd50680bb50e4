// AVX-512 BF16: `vdpbf16ps` multiplies 32 pairs of bf16 and adds each two neighbors to one of 16 sums.
//
// Not an instruction set of its own: where a CPU with AVX-512 VNNI has it too, attention uses it (dispatch.cpp). A tile
// is 12 rows by 32 keys or channels, in the same registers as avx512vnni.cpp's. `vdpbf16ps` takes what is below 2^-126
// for zero.
#include <immintrin.h>

#include "attention_kernels.hpp"

namespace vlapack {
namespace {

constexpr __mmask16 kEvery = 0xffff;  // without a mask, GCC warns of its own header

struct Float512 {
  using Register = __m512;
  static constexpr int kLanes = 16;
  static Register load(const float* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, Register value) { _mm512_storeu_ps(to, value); }
  static Register broadcast(float value) { return _mm512_set1_ps(value); }
  static Register fma(Register a, Register b, Register c) { return _mm512_fmadd_ps(a, b, c); }
  static Register larger(Register a, Register b) { return _mm512_maskz_max_ps(kEvery, a, b); }
};

struct Pairs {
  using Vector = Float512;
  using Pair = __m512i;
  using Factor = uint16_t;
  static constexpr int kRows = 12;
  static constexpr int kVectors = 2;
  static constexpr int kHalves = 1;

  template <int>
  static Pair half(Pair pairs) {
    return pairs;
  }
  static __m512 add(__m512 sum, const uint16_t* factor, Pair pairs) {
    int32_t pair;
    std::memcpy(&pair, factor, 4);
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)pairs);
  }
  static void take(const uint16_t* row, int64_t count, uint16_t* slot) {
    if (count == kBlock) return void(std::memcpy(slot, row, 2 * kBlock));  // a length that the compiler knows
    std::memcpy(slot, row, static_cast<size_t>(count) * sizeof(uint16_t));
  }
  static __m512 keep(const __m512 (&weights)[2], __m512 sums, uint16_t* slot) {
    const __m512bh rounded = _mm512_cvtne2ps_pbh(weights[1], weights[0]);
    _mm512_storeu_si512(slot, (__m512i)rounded);
    return _mm512_dpbf16_ps(sums, rounded, (__m512bh)_mm512_set1_epi32(0x3f803f80));  // times 1.0
  }
};

}  // namespace

extern const AttentionKernels kAvx512Bf16 = attention_kernels<Pairs>();

}  // namespace vlapack
