// One tile of the backward product. Included by each instruction set's file, with internal linkage, as float_kernels.hpp is.
//
// Sixteen bytes of a prepared weight are four outputs by four channels (kernels.hpp), twice with 4 bits: the low nibbles
// and the high ones. Widened they are one vector of 16 lanes, two of 8 or four of 4, times g of those outputs, which
// stands in memory four times each. A sum holds lanes of several outputs; only its four channels are left in the end:
//
//     lane of a sum                  0  1  2  3   4  5  6  7   8  ...
//     output of the four, channel    0, 0-3       1, 0-3       2, 0-3   ...
//
// A row has two sums, one for each four channels of a step. A vector of g serves both.
//
// A class V has `Register`, `kLanes` (4, 8 or 16), `load`, `fma`, `scaled` (x * a), `widen` (16 bytes as numbers less an
// offset) and `add_fours` (adds a register's groups of four lanes to four numbers).
#pragma once

#include <cstring>

#include "with_rows.hpp"

namespace vlapack {
namespace {

using Sixteen = uint8_t __attribute__((vector_size(16)));

inline Sixteen sixteen(const uint8_t* from) {
  Sixteen bytes;
  std::memcpy(&bytes, from, sizeof(bytes));
  return bytes;
}

template <class V, int Bits, int Rows>
void back_product(const BackTile& tile) {
  using Register = typename V::Register;
  constexpr int kRegisters = 16 / V::kLanes, kQuads = kPanel / 4, kOffset = Bits == 4 ? 8 : 128;
  for (int64_t t = 0; t < tile.steps; ++t) {
    Register sums[Rows][2];
    for (int r = 0; r < Rows; ++r) sums[r][0] = sums[r][1] = V::zero();
    const float* gradient = tile.gradient;
    const float* scales = tile.scales;
    for (int p = 0; p < tile.panels; ++p) {
      const uint8_t* weights = tile.weights + p * tile.weight_pitch + t * kPanel * Bits;
      for (int q = 0; q < kQuads; ++q, weights += 16, scales += 16, gradient += 16 * Rows) {
        const Sixteen bytes = sixteen(weights);
        Register low[kRegisters], high[kRegisters];
        V::template widen<kOffset>(Bits == 4 ? bytes & 15 : bytes, low);
        V::template widen<kOffset>(Bits == 4 ? bytes >> 4 : sixteen(weights + kPanel * 4), high);
#pragma GCC unroll 4
        for (int i = 0; i < kRegisters; ++i) {
          const Register scale = V::load(scales + i * V::kLanes);
          const Register left = V::scaled(low[i], scale), right = V::scaled(high[i], scale);
#pragma GCC unroll 12
          for (int r = 0; r < Rows; ++r) {
            const Register g = V::load(gradient + 16 * r + i * V::kLanes);
            sums[r][0] = V::fma(left, g, sums[r][0]);
            sums[r][1] = V::fma(right, g, sums[r][1]);
          }
        }
      }
    }
    for (int r = 0; r < Rows; ++r)
      for (int half = 0; half < 2; ++half) V::add_fours(tile.out + r * tile.out_pitch + t * kDepth + 4 * half, sums[r][half]);
  }
}

template <class V>
void back_rows(const BackTile& tile) {
  with_rows<V::kRows>(tile.rows, [&](auto rows) {
    tile.bits == 4 ? back_product<V, 4, rows>(tile) : back_product<V, 8, rows>(tile);
  });
}

}  // namespace
}  // namespace vlapack
