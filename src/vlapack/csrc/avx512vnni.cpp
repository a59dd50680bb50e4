// AVX-512 VNNI: `vpdpbusd` multiplies 64 unsigned bytes by 64 signed ones and adds each four neighbours to one of 16
// sums.
//
// It does not saturate (`vpdpbusds` would), and sums of 32 bits suffice; linear.cpp says why. One register of weights
// holds 16 outputs by 4 channels, so lane r of a sum is output r. A tile is 12 rows by 32 outputs. The 32 registers of
// the inner loop:
//
//     24  sums, 12 rows x 2 x 16 outputs, from the first step to the last
//      2  weights, unpacked: nibbles or bytes of 16 outputs x 4 channels each
//      1  four channels of one row, in every lane (`vpbroadcastd` from memory)
//      1  the mask 0x0f, for 4 bits
//      4  left for the compiler, to load ahead
//
// A step of 4-bit weights is 48 products. Beside them it takes 24 broadcasts, 6 shifts and masks, and loads of two
// registers of weights, so the products are what bounds the loop. Weights are loaded and unpacked once per tile: fewer
// rows would do that for less work, and more rows have no registers. Twelve also take the ten actions of a LIBERO chunk
// in one tile. Every number of rows from 1 to 12 is compiled, so a short tile does no work for rows that are not there.
#include <immintrin.h>

#include "attention_kernels.hpp"
#include "float_kernels.hpp"

namespace vlapack {
namespace {

struct Vector {
  using Register = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kColumns = 4;
  static Register load(const float* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, Register value) { _mm512_storeu_ps(to, value); }
  static Register broadcast(float value) { return _mm512_set1_ps(value); }
  static constexpr __mmask16 kEvery = 0xffff;  // without a mask, GCC warns of its own header
  template <int Half>
  static Register exchange(Register x) {
    if constexpr (Half == 1) return _mm512_maskz_permute_ps(kEvery, x, 0xb1);
    if constexpr (Half == 2) return _mm512_maskz_permute_ps(kEvery, x, 0x4e);
    if constexpr (Half == 4) return _mm512_maskz_shuffle_f32x4(kEvery, x, x, 0xb1);
    if constexpr (Half == 8) return _mm512_maskz_shuffle_f32x4(kEvery, x, x, 0x4e);
  }
  static Register fma(Register a, Register b, Register c) { return _mm512_fmadd_ps(a, b, c); }
  static Register larger(Register a, Register b) { return _mm512_maskz_max_ps(kEvery, a, b); }  // b if either is NaN
};

constexpr AttentionKernels kAttention = attention_kernels<Widened<Vector, 12, 2>>();
constexpr int kTileRows = 12;
constexpr int kAhead = 4096;  // bytes of weights fetched before they are needed: a page; see avx2.cpp

inline __m512i four(const int8_t* activations) {
  int32_t word;
  std::memcpy(&word, activations, 4);
  return _mm512_set1_epi32(word);
}

// Adds four channels of `Rows` rows by 32 outputs.
template <int Rows>
inline void add_products(__m512i (&sums)[Rows][2], __m512i left, __m512i right, const int8_t* activations) {
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
    const __m512i x = four(activations + 4 * r);
    sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], left, x);
    sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], right, x);
  }
}

template <int Bits, int Rows>
void product(const Tile& tile) {
  __m512i sums[Rows][2];
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
    const int32_t* before = tile.sums + r * kPanel;
    sums[r][0] = tile.start ? _mm512_set1_epi32(tile.start[r]) : _mm512_loadu_si512(before);
    sums[r][1] = tile.start ? sums[r][0] : _mm512_loadu_si512(before + 16);
  }
  const __m512i low = _mm512_set1_epi8(15);
  const int8_t* activations = tile.activations;
  const uint8_t* weights = tile.weights;
  for (int64_t t = 0; t < tile.steps; ++t, weights += 32 * Bits, activations += 8 * Rows) {
    for (int line = 0; line < 32 * Bits; line += 64)
      _mm_prefetch(reinterpret_cast<const char*>(weights + kAhead + line), _MM_HINT_T0);
    const __m512i left = _mm512_loadu_si512(weights), right = _mm512_loadu_si512(weights + 64);
    if constexpr (Bits == 8) {
      add_products<Rows>(sums, left, right, activations);
      add_products<Rows>(sums, _mm512_loadu_si512(weights + 128), _mm512_loadu_si512(weights + 192),
                         activations + 4 * Rows);
    } else {
      add_products<Rows>(sums, _mm512_and_si512(left, low), _mm512_and_si512(right, low), activations);
      add_products<Rows>(sums, _mm512_and_si512(_mm512_srli_epi16(left, 4), low),
                         _mm512_and_si512(_mm512_srli_epi16(right, 4), low), activations + 4 * Rows);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
    _mm512_storeu_si512(tile.sums + r * kPanel, sums[r][0]);
    _mm512_storeu_si512(tile.sums + r * kPanel + 16, sums[r][1]);
  }
}

template <int Bits>
void product_rows(const Tile& tile) {
  with_rows<kTileRows>(tile.rows, [&](auto rows) { product<Bits, rows>(tile); });
}

int64_t peak(int64_t rounds) {
  __m512i sums[12];
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-5);
  for (int64_t i = 0; i < rounds; ++i) {
    asm volatile("" : "+v"(a), "+v"(b));
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) sums[j] = _mm512_dpbusd_epi32(sums[j], a, b);
  }
  for (__m512i& sum : sums) asm volatile("" : : "v"(sum));
  return rounds * 12 * 64 * 2;
}

}  // namespace

const Kernels kAvx512Vnni = {
    "avx512vnni", kTileRows, kRows, Vector::kLanes, product_rows<4>, product_rows<8>, pack, sum, scale, finish,
    activation<Vector>, attend_plain<Vector>, turn, peak, &kAttention,
};

}  // namespace vlapack
