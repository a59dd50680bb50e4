// AVX-VNNI: `vpdpbusd` on 256-bit registers, of which there are 16: tiles of 6 rows by 16 outputs.
#include "vector256.hpp"

namespace vlapack {
namespace {

constexpr int kTileRows = 6;

template <int Rows>
inline void add_products(__m256i (&sums)[Rows][2], __m256i left, __m256i right, const int8_t* activations) {
#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r) {
    const __m256i x = four(activations + 4 * r);
    sums[r][0] = _mm256_dpbusd_avx_epi32(sums[r][0], left, x);
    sums[r][1] = _mm256_dpbusd_avx_epi32(sums[r][1], right, x);
  }
}

template <int Bits, int Rows>
void product(const Tile& tile) {
  const __m256i mask = _mm256_set1_epi8(15);
  by_group<Bits>(tile, [&](const Part& part) __attribute__((always_inline)) {
    for (int half = 0; half < 2; ++half) {
      __m256i sums[Rows][2];
      begin_sums<Vector>(sums, tile, part, 16 * half);
      const int8_t* activations = part.activations;
      const uint8_t* weights = part.weights + 64 * half;
      for (int64_t t = 0; t < part.steps; ++t, weights += 32 * Bits, activations += 8 * Rows) {
        const __m256i left = load(weights), right = load(weights + 32);
        if constexpr (Bits == 8) {
          add_products<Rows>(sums, left, right, activations);
          add_products<Rows>(sums, load(weights + 128), load(weights + 160), activations + 4 * Rows);
        } else {
          add_products<Rows>(sums, _mm256_and_si256(left, mask), _mm256_and_si256(right, mask), activations);
          add_products<Rows>(sums, _mm256_and_si256(_mm256_srli_epi16(left, 4), mask),
                             _mm256_and_si256(_mm256_srli_epi16(right, 4), mask), activations + 4 * Rows);
        }
      }
      end_sums<Vector>(sums, tile, part, 16 * half);
    }
  });
}

template <int Bits>
void product_rows(const Tile& tile) {
  with_rows<kTileRows>(tile.rows, [&](auto rows) { product<Bits, rows>(tile); });
}

int64_t peak(int64_t rounds) {
  __m256i sums[12];
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-5);
  for (int64_t i = 0; i < rounds; ++i) {
    asm volatile("" : "+x"(a), "+x"(b));
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) sums[j] = _mm256_dpbusd_avx_epi32(sums[j], a, b);
  }
  for (__m256i& sum : sums) asm volatile("" : : "x"(sum));
  return rounds * 12 * 32 * 2;
}

}  // namespace

const Kernels kAvxVnni = {
    "avxvnni", kTileRows, kRows, Back::kRows, Vector::kLanes, product_rows<4>, product_rows<8>, back_rows<Back>, pack, finish,
    activation<Vector>, attend_plain<Vector>, turn, peak, &kAttention,
};

}  // namespace vlapack
