// AVX-512 VNNI: `vpdpbusd` multiplies 64 pairs u8 x s8 and adds them to 16 sums.
//
// A tile is 12 rows by 32 outputs: 24 of the 32 registers hold sums, and per 24 products there are two loads of weights
// and twelve broadcasts of activations, so that neither the loads nor unpacking the nibbles is what bounds the loop.
#include <immintrin.h>

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
  static Register fma(Register a, Register b, Register c) { return _mm512_fmadd_ps(a, b, c); }
};

constexpr int kTileRows = 12;
constexpr int kAhead = 1024;  // bytes of weights fetched before they are needed

inline __m512i four(const int8_t* activations) {
  int32_t word;
  std::memcpy(&word, activations, 4);
  return _mm512_set1_epi32(word);
}

template <int Rows, int Blocks>
inline void add_products(__m512i (&sums)[Rows][Blocks], const __m512i (&weights)[Blocks], const int8_t* activations) {
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
    const __m512i x = four(activations + 4 * r);
#pragma GCC unroll 2
    for (int b = 0; b < Blocks; ++b) sums[r][b] = _mm512_dpbusd_epi32(sums[r][b], weights[b], x);
  }
}

template <int Bits, int Rows, int Blocks>
void product(const Tile& tile) {
  __m512i sums[Rows][Blocks];
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
    for (int b = 0; b < Blocks; ++b) sums[r][b] = _mm512_set1_epi32(tile.start[r]);
  const __m512i low = _mm512_set1_epi8(15);
  const int8_t* activations = tile.activations;
  const uint8_t* weights = tile.weights;
  for (int64_t t = 0; t < tile.steps; ++t) {
    __m512i first[Blocks], second[Blocks];  // channels 0-3 and 4-7 of the step
#pragma GCC unroll 2
    for (int b = 0; b < Blocks; ++b) {
      const uint8_t* from = weights + b * tile.pitch;
      _mm_prefetch(reinterpret_cast<const char*>(from + kAhead), _MM_HINT_T0);
      first[b] = _mm512_loadu_si512(from);
      if constexpr (Bits == 8) {
        second[b] = _mm512_loadu_si512(from + 64);
      } else {
        second[b] = _mm512_and_si512(_mm512_srli_epi16(first[b], 4), low);
        first[b] = _mm512_and_si512(first[b], low);
      }
    }
    add_products(sums, first, activations);
    add_products(sums, second, activations + 4 * Rows);
    weights += 8 * Bits * 2;
    activations += 8 * Rows;
  }
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
    for (int b = 0; b < Blocks; ++b) _mm512_storeu_si512(tile.sums + r * kPanel + b * kLanes, sums[r][b]);
}

template <int Bits, int Rows>
void product_of(const Tile& tile) {
  if (tile.blocks == 2)
    product<Bits, Rows, 2>(tile);
  else
    product<Bits, Rows, 1>(tile);
}

template <int Bits>
void product_rows(const Tile& tile) {
  switch (tile.rows) {
    case 1: return product_of<Bits, 1>(tile);
    case 2: return product_of<Bits, 2>(tile);
    case 3: return product_of<Bits, 3>(tile);
    case 4: return product_of<Bits, 4>(tile);
    case 5: return product_of<Bits, 5>(tile);
    case 6: return product_of<Bits, 6>(tile);
    case 7: return product_of<Bits, 7>(tile);
    case 8: return product_of<Bits, 8>(tile);
    case 9: return product_of<Bits, 9>(tile);
    case 10: return product_of<Bits, 10>(tile);
    case 11: return product_of<Bits, 11>(tile);
    case 12: return product_of<Bits, 12>(tile);
  }
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
    "avx512vnni",    kTileRows, kRows,  Vector::kLanes,     product_rows<4>,
    product_rows<8>, scale,     finish, activation<Vector>, peak,
};

}  // namespace vlapack
