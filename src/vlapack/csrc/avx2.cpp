// AVX2 without VNNI. No instruction multiplies u8 x s8 into 32-bit sums here, so sums are 16 bits wide for a while.
//
// `vpmaddubsw` multiplies 32 unsigned bytes by 32 signed ones and adds neighbours: 16 sums of 16 bits, each saturated
// to -32768..32767. One register of weights holds 8 outputs by 4 channels, so lane 2r has output r's channels 0 and 1,
// and lane 2r + 1 its channels 2 and 3.
//
// Why nothing saturates: a nibble is 0-15 and an activation -128..127, so one `vpmaddubsw` gives at most 2 * 15 * 128 =
// 3840 in magnitude, and eight of them 30720. Nine would give 34560. A step of 8 channels adds two to each lane
// (channels 0-3, then 4-7), so after 4 steps, 32 channels, the lanes are widened: `vpmaddwd` by ones adds lanes 2r and
// 2r + 1 into 32 bits, and that goes into the sums in memory. Widening costs 10 multiplies, additions, loads and stores
// per 80 products.
//
// 8-bit weights are 0-255. Two products of 255 * 128 do not fit into 16 bits: `vpmaddubsw` would saturate. So such a
// weight is taken as 16 * high + low, and each nibble goes through the same loop. The high ones are widened by
// `vpmaddwd` with 16 in place of 1. The sum of one pair of lanes is then at most 16 * 2 * 30720 = 983040.
//
// A tile is 5 rows by 16 outputs; two passes make a panel of 32. A pass reads half of every step, 64 bytes, a cache
// line. The 16 registers of the inner loop:
//
//     10  sums, 5 rows x 2 x (8 outputs x 2 lanes of 16 bits)
//      2  weights, nibbles of 8 outputs x 4 channels each
//      1  four channels of one row, in every 32-bit lane
//      1  the products, between `vpmaddubsw` and `vpaddw`
//      1  the mask 0x0f
//      1  spare: GCC keeps the zeros there that the sums start from
//
// A sixth row would need 17. Fewer rows load and unpack as many weights for less work.
#include "vector256.hpp"

namespace vlapack {
namespace {

constexpr int kTileRows = 5;
constexpr int64_t kSteps = 4;  // between two widenings: 8 products a lane, the most that 16 bits hold
// Weights are fetched this many bytes before they are needed: a page, where a hardware prefetcher has to start again.
// What comes next in memory is the next panel; behind the last one nothing happens, since a prefetch cannot fault.
constexpr int kAhead = 4096;

// sums += pairs of weights * x, in 16 bits. In assembly, because compilers compute all products first and add them
// later, and so run out of registers: here a product lives for one instruction. Operands are in AT&T's order: %3 is the
// unsigned one. `=&x`: the product must not share a register with an input. Not volatile: the compiler may still move
// the pair as a whole.
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

// Adds `factor` times the 16-bit sums to the 32-bit ones and clears them. The 32-bit ones are in memory, in the tile's
// sums: there are no registers left for them.
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

// AVX2 has no shift of bytes: this one shifts 16 bits, and the mask drops what came over from the neighbour.
inline __m256i nibbles(__m256i bytes, bool high) {
  return _mm256_and_si256(high ? _mm256_srli_epi16(bytes, 4) : bytes, _mm256_set1_epi8(15));
}

// One pass over 16 outputs of 4-bit weights; `weights` begins at this half's 64 bytes of the first step.
template <int Rows>
void add_half4(const Part& part, const uint8_t* weights, int32_t* wide) {
  __m256i sums[Rows][2] = {};
  const int8_t* activations = part.activations;
  for (int64_t left = part.steps; left > 0; left -= kSteps) {
    for (int64_t t = 0; t < (left < kSteps ? left : kSteps); ++t, weights += 128, activations += 8 * Rows) {
      _mm_prefetch(reinterpret_cast<const char*>(weights + kAhead), _MM_HINT_T0);
      const __m256i low = load(weights), high = load(weights + 32);
      add_pairs<Rows>(sums, nibbles(low, false), nibbles(high, false), activations);
      add_pairs<Rows>(sums, nibbles(low, true), nibbles(high, true), activations + 4 * Rows);
    }
    widen_sums<Rows>(sums, 1, wide);
  }
}

// One pass over 16 outputs of 8-bit weights, 32 channels at a time: all low nibbles, widen, all high nibbles, widen.
// The weights are loaded twice, the second time from the first cache. A step has two lines here, 128 bytes apart, of
// four channels each; hence `fours`.
template <int Rows>
void add_half8(const Part& part, const uint8_t* weights, int32_t* wide) {
  __m256i sums[Rows][2] = {};
  const int8_t* activations = part.activations;
  for (int64_t left = 2 * part.steps; left > 0; left -= 2 * kSteps) {
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
  by_group<Bits>(tile, [&](const Part& part) __attribute__((always_inline)) {
    begin_sums(tile, part);
    for (int half = 0; half < 2; ++half) {
      if constexpr (Bits == 4)
        add_half4<Rows>(part, part.weights + 64 * half, tile.sums + 16 * half);
      else
        add_half8<Rows>(part, part.weights + 64 * half, tile.sums + 16 * half);
    }
    end_sums(tile, part);
  });
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
    "avx2", kTileRows, kRows, Back::kRows, Vector::kLanes, product_rows<4>, product_rows<8>, back_rows<Back>, pack, finish,
    activation<Vector>, attend_plain<Vector>, turn, peak, &kAttention,
};

}  // namespace vlapack
