// The backward product in words, by `vpdpwssd` of AVX-512 VNNI: 32 products an instruction, where fp32 has 16.
//
// It adds pairs of neighbours, which must be outputs here. A shuffle in each 16 bytes (four outputs by four channels) puts
// the bytes of two outputs side by side; widened, 32 bytes are one register of 16 pairs:
//
//     lane of a sum                  0  1  2  3   4  5  6  7   8  ...
//     pair of outputs, channel       0, 0-3       1, 0-3       2, 0-3   ...
//
// Sums stay far below 2^31: a lane adds 32 products of at most 128 * 32767 in a tile's 128 outputs, four lanes make a
// channel.
#pragma once

#include <immintrin.h>

#include "with_rows.hpp"

namespace vlapack {
namespace {

constexpr int kWordRows = 12;
constexpr float kLargestWord = 32767.0f;

inline __m512i pairs(__m256i bytes, int offset) {
  const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15));
  const __m512i wide = _mm512_maskz_cvtepu8_epi16(~__mmask32{0}, _mm256_shuffle_epi8(bytes, order));
  return _mm512_sub_epi16(wide, _mm512_set1_epi16(static_cast<int16_t>(offset)));
}

template <int Bits, int Rows>
void word_product(const WordTile& tile) {
  constexpr int kOffset = Bits == 4 ? 8 : 128;
  const __m256i mask = _mm256_set1_epi8(15);
  const auto load = [](const uint8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); };
  for (int64_t t = 0; t < tile.steps; ++t) {
    __m512i sums[Rows][2];
    for (int r = 0; r < Rows; ++r) sums[r][0] = sums[r][1] = _mm512_setzero_si512();
    const int16_t* gradient = tile.gradient;
    for (int p = 0; p < tile.panels; ++p) {
      const uint8_t* weights = tile.weights + p * tile.weight_pitch + t * kPanel * Bits;
      for (int q = 0; q < kPanel / 8; ++q, weights += 32, gradient += 32 * Rows) {
        const __m256i bytes = load(weights);
        __m512i low, high;
        if constexpr (Bits == 4) {
          low = pairs(_mm256_and_si256(bytes, mask), kOffset);
          high = pairs(_mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask), kOffset);
        } else {
          low = pairs(bytes, kOffset), high = pairs(load(weights + 4 * kPanel), kOffset);
        }
#pragma GCC unroll 12
        for (int r = 0; r < Rows; ++r) {
          const __m512i g = _mm512_load_si512(gradient + 32 * r);
          sums[r][0] = _mm512_dpwssd_epi32(sums[r][0], low, g);
          sums[r][1] = _mm512_dpwssd_epi32(sums[r][1], high, g);
        }
      }
    }
    for (int r = 0; r < Rows; ++r)
      for (int half = 0; half < 2; ++half) {
        const __m256i eight = _mm256_add_epi32(_mm512_maskz_extracti32x8_epi32(0xff, sums[r][half], 0),
                                               _mm512_maskz_extracti32x8_epi32(0xff, sums[r][half], 1));
        const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
        float* to = tile.out + r * tile.out_pitch + t * kDepth + 4 * half;
        _mm_storeu_ps(to, _mm_fmadd_ps(_mm_cvtepi32_ps(four), _mm_set1_ps(tile.units[r]), _mm_loadu_ps(to)));
      }
  }
}

void word_rows(const WordTile& tile) {
  with_rows<kWordRows>(tile.rows, [&](auto rows) {
    tile.bits == 4 ? word_product<4, rows>(tile) : word_product<8, rows>(tile);
  });
}

// A row that is not finite has the unit NaN, and zeros.
void prepare_words(const WordRows& job) {
  const __m512i spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  const __m512i other = _mm512_add_epi32(spread, _mm512_set1_epi32(4));
  const int count = job.panels * kPanel / 16;
  for (int r = 0; r < job.rows; ++r) {
    const float* g = job.g + r * job.pitch;
    const auto scaled = [&](int i) {
      const int64_t left = job.outputs - 16 * i;
      const __mmask16 there = left >= 16 ? 0xffff : left > 0 ? static_cast<__mmask16>((1u << left) - 1) : 0;
      return _mm512_maskz_loadu_ps(there, g + 16 * i) * _mm512_loadu_ps(job.scales + 16 * i);
    };
    __m512 most = _mm512_setzero_ps(), nothing = _mm512_setzero_ps();
    for (int i = 0; i < count; ++i) {
      const __m512 x = scaled(i);
      most = _mm512_maskz_max_ps(0xffff, most, _mm512_abs_ps(x));
      nothing = nothing + (x - x);  // NaN once one of them is not finite
    }
    float peaks[16], rests[16], peak = 0, rest = 0;
    _mm512_storeu_ps(peaks, most), _mm512_storeu_ps(rests, nothing);
    for (int i = 0; i < 16; ++i) peak = peaks[i] > peak ? peaks[i] : peak, rest += rests[i];
    const float unit = peak / kLargestWord;
    const bool usable = rest == 0 && unit > 0;
    job.units[r] = rest == 0 ? unit : __builtin_nanf("");
    const __m512 by = _mm512_set1_ps(usable ? unit : 1.0f);
    for (int i = 0; i < count; ++i) {
      const __m512i whole = usable ? _mm512_maskz_cvtps_epi32(0xffff, _mm512_maskz_div_ps(0xffff, scaled(i), by))
                                   : _mm512_setzero_si512();
      const __m512i words = _mm512_maskz_inserti64x4(0xff, _mm512_setzero_si512(), _mm512_maskz_cvtsepi32_epi16(0xffff, whole), 0);
      int16_t* to = job.gradient + (2 * i * job.rows + r) * 32;
      _mm512_store_si512(to, _mm512_maskz_permutexvar_epi32(0xffff, spread, words));
      _mm512_store_si512(to + 32 * job.rows, _mm512_maskz_permutexvar_epi32(0xffff, other, words));
    }
  }
}

constexpr WordGradient kWords = {prepare_words, word_rows};

}  // namespace
}  // namespace vlapack
