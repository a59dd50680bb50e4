// AVX2 without VNNI: `vpmaddubsw` multiplies 32 pairs u8 x s8 and adds neighbours into 16 sums of 16 bits.
//
// With 4-bit weights w + 8 (0-15) a sum of eight such pairs stays within 8 * 2 * 15 * 128 = 30720, so that it is widened
// only once in 32 channels. An 8-bit weight is 16 times its high nibble plus its low one: two such products.
#include "vector256.hpp"

namespace vlapack {
namespace {

constexpr int kTileRows = 5;
constexpr int64_t kSteps = 4;  // of 8 channels, whose pairs one 16-bit sum holds: 2 per step
constexpr int kAhead = 4096;  // bytes of weights fetched before they are needed

// In assembly, for compilers put the products far ahead of the sums and run out of registers.
inline void add_pairs(__m256i& sums, __m256i weights, __m256i x) {
  __m256i products;
  asm("vpmaddubsw %2, %3, %1\n\tvpaddw %1, %0, %0" : "+x"(sums), "=&x"(products) : "x"(x), "x"(weights));
}

// Adds four channels to the 16-bit sums of `Rows` rows by 16 outputs.
template <int Rows>
inline void add_pairs(__m256i (&sums)[Rows][2], __m256i left, __m256i right, const int8_t* activations) {
#pragma GCC unroll 5
  for (int r = 0; r < Rows; ++r) {
    const __m256i x = four(activations + 4 * r);
    add_pairs(sums[r][0], left, x);
    add_pairs(sums[r][1], right, x);
  }
}

// Adds `factor` times the 16-bit sums to the 32-bit ones and clears them.
template <int Rows>
inline void widen_sums(__m256i (&sums)[Rows][2], int factor, int32_t* wide) {
  const __m256i times = _mm256_set1_epi16(static_cast<int16_t>(factor));
#pragma GCC unroll 5
  for (int r = 0; r < Rows; ++r)
    for (int h = 0; h < 2; ++h) {
      __m256i* target = reinterpret_cast<__m256i*>(wide + r * kPanel + h * 8);
      _mm256_storeu_si256(target, _mm256_add_epi32(_mm256_loadu_si256(target), _mm256_madd_epi16(sums[r][h], times)));
      sums[r][h] = _mm256_setzero_si256();
    }
}

inline __m256i nibbles(__m256i bytes, bool high) {
  return _mm256_and_si256(high ? _mm256_srli_epi16(bytes, 4) : bytes, _mm256_set1_epi8(15));
}

template <int Rows>
void add_half4(const Tile& tile, const uint8_t* weights, int32_t* wide) {
  __m256i sums[Rows][2] = {};
  const int8_t* activations = tile.activations;
  for (int64_t left = tile.steps; left > 0; left -= kSteps) {
    for (int64_t t = 0; t < (left < kSteps ? left : kSteps); ++t, weights += 128, activations += 8 * Rows) {
      _mm_prefetch(reinterpret_cast<const char*>(weights + kAhead), _MM_HINT_T0);
      const __m256i low = load(weights), high = load(weights + 32);
      add_pairs<Rows>(sums, nibbles(low, false), nibbles(high, false), activations);
      add_pairs<Rows>(sums, nibbles(low, true), nibbles(high, true), activations + 4 * Rows);
    }
    widen_sums<Rows>(sums, 1, wide);
  }
}

template <int Rows>
void add_half8(const Tile& tile, const uint8_t* weights, int32_t* wide) {
  __m256i sums[Rows][2] = {};
  const int8_t* activations = tile.activations;
  for (int64_t left = 2 * tile.steps; left > 0; left -= 2 * kSteps) {
    const int64_t fours = left < 2 * kSteps ? left : 2 * kSteps;
    for (int half = 0; half < 2; ++half) {
      for (int64_t t = 0; t < fours; ++t)
        add_pairs<Rows>(sums, nibbles(load(weights + 128 * t), half), nibbles(load(weights + 128 * t + 32), half),
                        activations + 4 * Rows * t);
      widen_sums<Rows>(sums, half ? 16 : 1, wide);
    }
    weights += 128 * fours;
    activations += 4 * Rows * fours;
  }
}

template <int Bits, int Rows>
void product(const Tile& tile) {
  for (int r = 0; tile.start && r < Rows; ++r)
    for (int c = 0; c < kPanel; ++c) tile.sums[r * kPanel + c] = tile.start[r];
  for (int half = 0; half < 2; ++half) {
    if constexpr (Bits == 4)
      add_half4<Rows>(tile, tile.weights + 64 * half, tile.sums + 16 * half);
    else
      add_half8<Rows>(tile, tile.weights + 64 * half, tile.sums + 16 * half);
  }
}

template <int Bits>
void product_rows(const Tile& tile) {
  with_rows<kTileRows>(tile.rows, [&](auto rows) { product<Bits, rows>(tile); });
}

int64_t peak(int64_t rounds) {
  __m256i sums[12];
#pragma GCC unroll 12
  for (int j = 0; j < 12; ++j) sums[j] = _mm256_setzero_si256();
  const __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-5);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) add_pairs(sums[j], a, b);
  }
#pragma GCC unroll 12
  for (int j = 0; j < 12; ++j) asm volatile("" : : "x"(sums[j]));
  return rounds * 12 * 32 * 2;
}

}  // namespace

const Kernels kAvx2 = {
    "avx2", kTileRows, kRows, Vector::kLanes, product_rows<4>, product_rows<8>, pack, sum, scale, finish,
    activation<Vector>, peak,
};

}  // namespace vlapack
