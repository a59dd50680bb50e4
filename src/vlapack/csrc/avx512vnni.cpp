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
#include "gradient_kernel.hpp"
#include "gradient_words.hpp"

namespace vlapack {
namespace {

constexpr __mmask16 kEvery = 0xffff;  // without a mask, GCC warns of its own header

struct Vector {
  using Register = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kColumns = 4;
  static Register load(const float* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, Register value) { _mm512_storeu_ps(to, value); }
  static Register broadcast(float value) { return _mm512_set1_ps(value); }
  using Integers = __m512i;
  static Integers load(const int32_t* from) { return _mm512_loadu_si512(from); }
  static void store(int32_t* to, Integers value) { _mm512_storeu_si512(to, value); }
  static Integers broadcast(int32_t value) { return _mm512_set1_epi32(value); }
  static Register real(Integers value) { return _mm512_maskz_cvtepi32_ps(kEvery, value); }
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

struct Back {
  using Register = __m512;
  static constexpr int kLanes = 16, kRows = 12;
  static Register zero() { return _mm512_setzero_ps(); }
  static Register load(const float* from) { return _mm512_load_ps(from); }
  static Register fma(Register a, Register b, Register c) { return _mm512_fmadd_ps(a, b, c); }
  static Register scaled(Register x, Register by) { return x * by; }
  template <int Offset>
  static void widen(Sixteen bytes, Register (&numbers)[1]) {
    const __m512i wide = _mm512_maskz_cvtepu8_epi32(kEvery, reinterpret_cast<__m128i>(bytes));
    numbers[0] = _mm512_maskz_cvtepi32_ps(kEvery, wide) - static_cast<float>(Offset);
  }
  static void add_fours(float* to, Register x) {
    const __m256 eight = _mm512_maskz_extractf32x8_ps(0xff, x, 0) + _mm512_maskz_extractf32x8_ps(0xff, x, 1);
    const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
    _mm_storeu_ps(to, _mm_loadu_ps(to) + four);
  }
};

constexpr AttentionKernels kAttention = attention_kernels<Widened<Vector, 12, 2>>();
constexpr int kTileRows = 12;
constexpr int kAhead = 4096;  // bytes of weights fetched before they are needed: a page; see avx2.cpp

inline __m512i four(const int8_t* activations) {
  int32_t word;
  std::memcpy(&word, activations, 4);
  return _mm512_set1_epi32(word);
}

// Adds four channels of `Rows` rows by 32 outputs; `end` is what becomes of the sums.
template <int Rows, class End>
inline __attribute__((always_inline)) void add_products(__m512i (&sums)[Rows][2], __m512i left, __m512i right,
                                                        const int8_t* activations, const End& end) {
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
    const __m512i x = four(activations + 4 * r);
    sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], left, x);
    sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], right, x);
    end(r, 0, sums[r][0]);
    end(r, 1, sums[r][1]);
  }
}

// The same for a step, eight channels.
template <int Bits, int Rows, class End>
inline __attribute__((always_inline)) void add_step(__m512i (&sums)[Rows][2], const uint8_t* weights,
                                                    const int8_t* activations, const End& end) {
  const auto go_on = [](int, int, __m512i) {};
  for (int line = 0; line < 32 * Bits; line += 64)
    _mm_prefetch(reinterpret_cast<const char*>(weights + kAhead + line), _MM_HINT_T0);
  const __m512i left = _mm512_loadu_si512(weights), right = _mm512_loadu_si512(weights + 64);
  if constexpr (Bits == 8) {
    add_products<Rows>(sums, left, right, activations, go_on);
    add_products<Rows>(sums, _mm512_loadu_si512(weights + 128), _mm512_loadu_si512(weights + 192),
                       activations + 4 * Rows, end);
  } else {
    const __m512i low = _mm512_set1_epi8(15);
    add_products<Rows>(sums, _mm512_and_si512(left, low), _mm512_and_si512(right, low), activations, go_on);
    add_products<Rows>(sums, _mm512_and_si512(_mm512_srli_epi16(left, 4), low),
                       _mm512_and_si512(_mm512_srli_epi16(right, 4), low), activations + 4 * Rows, end);
  }
}

template <int Bits, int Rows>
void product(const Tile& tile) {
  by_group<Bits>(tile, [&](const Part& part) __attribute__((always_inline)) {
    __m512i sums[Rows][2];
    begin_sums<Vector>(sums, tile, part, 0);
    const int8_t* activations = part.activations;
    const uint8_t* weights = part.weights;
    // A group's end is 96 instructions. Behind one another they keep the next group's products waiting; so each row's
    // stand among the last products, which costs the time of the 24 multiplications and little more.
    const bool among = part.ends && part.added;
    for (int64_t t = among; t < part.steps; ++t, weights += 32 * Bits, activations += 8 * Rows)
      add_step<Bits>(sums, weights, activations, [](int, int, __m512i) {});
    if (!among) return end_sums<Vector>(sums, tile, part, 0);
    float* const results = tile.partial;
    const float* const scales = part.scales;
    add_step<Bits>(sums, weights, activations, [=](int r, int i, __m512i whole) __attribute__((always_inline)) {
      add_result<Vector>(results + r * kPanel + 16 * i, whole, scales + 16 * i);
    });
  });
}

template <int Bits>
void product_rows(const Tile& tile) {
  with_rows<kTileRows>(tile.rows, [&](auto rows) { product<Bits, rows>(tile); });
}

// Sixteen words of sixteen rows become sixteen rows of a word: each round moves the highest bit of a word's place to its
// lowest, and after four of them what was the row is the column.
inline void turn_around(__m512i (&rows)[16]) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  __m512i next[16];
#pragma GCC unroll 4
  for (int round = 0; round < 4; ++round) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      next[2 * i] = _mm512_permutex2var_epi32(rows[i], low, rows[i + 8]);
      next[2 * i + 1] = _mm512_permutex2var_epi32(rows[i], high, rows[i + 8]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) rows[i] = next[i];
  }
}

// 64 channels at a time. Lane r of a line of `packed` is row r, so the lines themselves add up to the rows' sums.
template <int Rows>
void pack_rows(const Packing& job) {
  constexpr __mmask16 kLanes = (1u << Rows) - 1;
  const __m512i ones = _mm512_set1_epi8(1), offset = _mm512_set1_epi32(-job.offset);
  __m512i sums = _mm512_setzero_si512();
  int8_t* packed = job.packed;
  int32_t* start = job.start;
  const auto end_group = [&] {
    _mm512_mask_storeu_epi32(start, kLanes, _mm512_mullo_epi32(sums, offset));
    sums = _mm512_setzero_si512();
    start += Rows;
  };
  int64_t left = job.group;
  for (int64_t k = 0; k < job.channels; k += 64) {
    const int64_t channels = job.channels - k;
    const __mmask64 there = channels < 64 ? (__mmask64{1} << channels) - 1 : ~__mmask64{0};
    __m512i words[16] = {};
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) words[r] = _mm512_maskz_loadu_epi8(there, job.q + r * job.pitch + k);
    turn_around(words);
#pragma GCC unroll 16
    for (int w = 0; w < 16; ++w) {
      if (4 * (w & ~1) >= channels) break;
      _mm512_mask_storeu_epi32(packed, kLanes, words[w]);
      packed += 4 * Rows;
      sums = _mm512_dpbusd_epi32(sums, ones, words[w]);
      if ((left -= 4) == 0) {
        end_group();
        left = job.group;
      }
    }
  }
  if (left < job.group || start == job.start) end_group();
}

void pack_tile(const Packing& job) {
  with_rows<kTileRows>(job.rows, [&](auto rows) { pack_rows<rows>(job); });
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
    "avx512vnni", kTileRows, kRows, Back::kRows, Vector::kLanes, product_rows<4>, product_rows<8>, back_rows<Back>, pack_tile, finish,
    activation<Vector>, attend_plain<Vector>, turn, peak, &kAttention, &kWords,
};

}  // namespace vlapack
