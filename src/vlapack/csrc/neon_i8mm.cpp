// NEON with the matrix extension (i8mm, Armv8.6): `smmla` multiplies two rows of eight channels by two outputs and adds
// them to their four sums.
#include "neon.hpp"

namespace vlapack {
namespace {

constexpr int kTileRows = 8;
constexpr int kPairs = 4;  // of outputs, a quarter of a panel

// Channels 0-3 of four rows or outputs and their channels 4-7, as two pairs of eight channels each.
inline int8x16_t first_pair(int8x16_t low, int8x16_t high) {
  return vreinterpretq_s8_s32(vzip1q_s32(vreinterpretq_s32_s8(low), vreinterpretq_s32_s8(high)));
}
inline int8x16_t second_pair(int8x16_t low, int8x16_t high) {
  return vreinterpretq_s8_s32(vzip2q_s32(vreinterpretq_s32_s8(low), vreinterpretq_s32_s8(high)));
}

// Eight channels of eight outputs.
template <int Bits>
inline void read_weights(const uint8_t* weights, int8x16_t (&pairs)[kPairs]) {
  for (int i = 0; i < kPairs; i += 2, weights += 16) {
    int8x16_t low, high;
    if constexpr (Bits == 4) {
      const uint8x16_t bytes = vld1q_u8(weights);
      low = vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15)));
      high = vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4));
    } else {
      low = signed_weights(weights);
      high = signed_weights(weights + 4 * kPanel);
    }
    pairs[i] = first_pair(low, high);
    pairs[i + 1] = second_pair(low, high);
  }
}

// Four channels of two rows; of one alone, twice.
inline int8x16_t read_rows(const int8_t* activations, bool two) {
  if (two) return vcombine_s8(vld1_s8(activations), vdup_n_s8(0));
  int32_t word;
  std::memcpy(&word, activations, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(word));
}

// Adds the products of one part to the tile's sums; two rows share a register of them.
template <int Bits, int Rows>
void add_part(const Tile& tile, const Part& part) {
  constexpr int kRowPairs = (Rows + 1) / 2;
  for (int first = 0; first < kPanel; first += 2 * kPairs) {
    int32x4_t sums[kRowPairs][kPairs] = {};
    const int8_t* activations = part.activations;
    const uint8_t* weights = part.weights + 4 * first;
    for (int64_t t = 0; t < part.steps; ++t, weights += 32 * Bits, activations += 8 * Rows) {
      int8x16_t pairs[kPairs];
      read_weights<Bits>(weights, pairs);
#pragma GCC unroll 4
      for (int r = 0; r < kRowPairs; ++r) {
        const int8_t* from = activations + 8 * r;
        const bool two = 2 * r + 1 < Rows;
        const int8x16_t x = first_pair(read_rows(from, two), read_rows(from + 4 * Rows, two));
#pragma GCC unroll 4
        for (int i = 0; i < kPairs; ++i) sums[r][i] = vmmlaq_s32(sums[r][i], x, pairs[i]);
      }
    }
    for (int r = 0; r < Rows; ++r) {
      int32_t* target = tile.sums + r * kPanel + first;
      const int32_t more = Bits == 8 ? surplus(part, Rows, r) : 0;
      for (int i = 0; i < kPairs; ++i) {
        const int32x2_t product = r % 2 ? vget_high_s32(sums[r / 2][i]) : vget_low_s32(sums[r / 2][i]);
        vst1_s32(target + 2 * i, vadd_s32(vadd_s32(vld1_s32(target + 2 * i), vdup_n_s32(more)), product));
      }
    }
  }
}

template <int Bits, int Rows>
void product(const Tile& tile) {
  by_group<Bits>(tile, [&](const Part& part) __attribute__((always_inline)) {
    begin_sums(tile, part);
    add_part<Bits, Rows>(tile, part);
    end_sums(tile, part);
  });
}

template <int Bits>
void product_rows(const Tile& tile) {
  with_rows<kTileRows>(tile.rows, [&](auto rows) { product<Bits, rows>(tile); });
}

int64_t peak(int64_t rounds) {
  return peak_of<32>(
      rounds, [](int32x4_t sum, int8x16_t a, int8x16_t b) { return vmmlaq_s32(sum, a, b); });
}

}  // namespace

const Kernels kNeonI8mm = {
    "neon_i8mm", kTileRows, kRows, Back::kRows, Vector::kLanes, product_rows<4>, product_rows<8>, back_rows<Back>, pack, finish,
    activation<Vector>, attend_plain<Vector>, turn, peak, &kAttention,
};

}  // namespace vlapack
