// Plain C++ on the same layout: what every other instruction set must agree with, and what runs where there is none.
#include "float_kernels.hpp"

namespace vlapack {
namespace {

struct Vector {
  using Register = float;
  static constexpr int kLanes = 1;
  static constexpr int kColumns = 4;
  static Register load(const float* from) { return *from; }
  static void store(float* to, Register value) { *to = value; }
  static Register broadcast(float value) { return value; }
  static Register fma(Register a, Register b, Register c) { return a * b + c; }
};

constexpr int kTileRows = 4;

template <int Bits>
void product(const Tile& tile) {
  for (int r = 0; r < tile.rows; ++r)
    for (int b = 0; b < tile.blocks; ++b) {
      int32_t* sums = tile.sums + r * kPanel + b * kLanes;
      for (int lane = 0; lane < kLanes; ++lane) sums[lane] = tile.start[r];
      const uint8_t* weights = tile.weights + b * tile.pitch;
      for (int64_t t = 0; t < 2 * tile.steps; ++t) {
        const int8_t* x = tile.activations + (t * tile.rows + r) * 4;
        const uint8_t* w = weights + (Bits == 4 ? t / 2 : t) * 64;
        const int shift = Bits == 4 ? 4 * (t % 2) : 0;
        for (int lane = 0; lane < kLanes; ++lane)
          for (int j = 0; j < 4; ++j) sums[lane] += (w[4 * lane + j] >> shift & (Bits == 4 ? 15 : 255)) * x[j];
      }
    }
}

int64_t peak(int64_t rounds) {
  int32_t sums[kLanes] = {};
  for (int64_t i = 0; i < rounds; ++i)
    for (int lane = 0; lane < kLanes; ++lane) {
      int32_t x = static_cast<int32_t>(i);
      asm volatile("" : "+r"(x));
      sums[lane] += x * 3;
    }
  for (int32_t& sum : sums) asm volatile("" : : "r"(sum));
  return rounds * kLanes * 2;
}

}  // namespace

const Kernels kPortable = {
    "portable", kTileRows, kRows, Vector::kLanes, product<4>, product<8>, scale, finish, activation<Vector>, peak,
};

}  // namespace vlapack
