// NEON with the dot-product extension (Armv8.2): `sdot` multiplies 16 pairs s8 x s8 and adds them to four sums.
#include "neon.hpp"

namespace vlapack {
namespace {

constexpr int kTileRows = 6;
constexpr int kQuarters = 4;  // registers of four outputs in half a panel

template <int Rows>
inline void add_products(int32x4_t (&sums)[Rows][kQuarters], const int8x16_t (&weights)[kQuarters],
                         const int8_t* activations) {
#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r) {
    int32_t word;
    std::memcpy(&word, activations + 4 * r, 4);
    const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(word));
#pragma GCC unroll 4
    for (int i = 0; i < kQuarters; ++i) sums[r][i] = vdotq_s32(sums[r][i], weights[i], x);
  }
}

template <int Rows>
inline void add_step4(int32x4_t (&sums)[Rows][kQuarters], const uint8_t* weights, const int8_t* activations) {
  int8x16_t low[kQuarters], high[kQuarters];
  for (int i = 0; i < kQuarters; ++i) {
    const uint8x16_t bytes = vld1q_u8(weights + 16 * i);
    low[i] = vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15)));
    high[i] = vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4));
  }
  add_products<Rows>(sums, low, activations);
  add_products<Rows>(sums, high, activations + 4 * Rows);
}

template <int Rows>
inline void add_step8(int32x4_t (&sums)[Rows][kQuarters], const uint8_t* weights, const int8_t* activations) {
  for (int half = 0; half < 2; ++half) {
    int8x16_t quarters[kQuarters];
    for (int i = 0; i < kQuarters; ++i) quarters[i] = signed_weights(weights + 128 * half + 16 * i);
    add_products<Rows>(sums, quarters, activations + 4 * Rows * half);
  }
}

template <int Bits, int Rows>
void product(const Tile& tile) {
  by_group<Bits>(tile, [&](const Part& part) __attribute__((always_inline)) {
    for (int half = 0; half < 2; ++half) {
      int32x4_t sums[Rows][kQuarters];
      begin_sums<Vector>(sums, tile, part, 16 * half);
      for (int r = 0; Bits == 8 && r < Rows; ++r) {
        const int32x4_t more = vdupq_n_s32(surplus(part, Rows, r));
        for (int i = 0; i < kQuarters; ++i) sums[r][i] = vaddq_s32(sums[r][i], more);
      }
      const int8_t* activations = part.activations;
      const uint8_t* weights = part.weights + 64 * half;
      for (int64_t t = 0; t < part.steps; ++t, weights += 32 * Bits, activations += 8 * Rows) {
        if constexpr (Bits == 4)
          add_step4<Rows>(sums, weights, activations);
        else
          add_step8<Rows>(sums, weights, activations);
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
  return peak_of<16>(
      rounds, [](int32x4_t sum, int8x16_t a, int8x16_t b) { return vdotq_s32(sum, a, b); });
}

}  // namespace

const Kernels kNeon = {
    "neon", kTileRows, kRows, Back::kRows, Vector::kLanes, product_rows<4>, product_rows<8>, back_rows<Back>, pack, finish,
    activation<Vector>, attend_plain<Vector>, turn, peak, &kAttention,
};

}  // namespace vlapack
