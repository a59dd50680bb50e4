// Plain C++ on the same layout: what every other instruction set must agree with, and what runs where there is none.
#include "attention_kernels.hpp"
#include "float_kernels.hpp"
#include "gradient_kernel.hpp"

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
  static Register larger(Register a, Register b) { return a > b ? a : b; }
};

struct Back {
  struct Register {
    float lanes[4];
  };
  static constexpr int kLanes = 4, kRows = 4;
  static Register zero() { return {}; }
  static Register load(const float* from) { return {{from[0], from[1], from[2], from[3]}}; }
  static Register fma(Register a, Register b, Register c) {
    for (int i = 0; i < 4; ++i) c.lanes[i] += a.lanes[i] * b.lanes[i];
    return c;
  }
  static Register scaled(Register x, Register by) {
    for (int i = 0; i < 4; ++i) x.lanes[i] *= by.lanes[i];
    return x;
  }
  template <int Offset>
  static void widen(Sixteen bytes, Register (&numbers)[4]) {
    for (int i = 0; i < 16; ++i) numbers[i / 4].lanes[i % 4] = static_cast<float>(bytes[i] - Offset);
  }
  static void add_fours(float* to, Register x) {
    for (int i = 0; i < 4; ++i) to[i] += x.lanes[i];
  }
};

constexpr AttentionKernels kAttention = attention_kernels<Widened<Vector, 2, 16>>();
constexpr int kTileRows = 4;

template <int Bits>
void product(const Tile& tile) {
  by_group<Bits>(tile, [&](const Part& part) __attribute__((always_inline)) {
    begin_sums(tile, part);
    for (int r = 0; r < tile.rows; ++r) {
      int32_t* sums = tile.sums + r * kPanel;
      for (int64_t t = 0; t < 2 * part.steps; ++t) {
        const int8_t* x = part.activations + (t * tile.rows + r) * 4;
        const uint8_t* weights = part.weights + (Bits == 4 ? t / 2 : t) * 4 * kPanel;
        const int shift = Bits == 4 ? 4 * (t % 2) : 0;
        for (int c = 0; c < kPanel; ++c)
          for (int j = 0; j < 4; ++j) sums[c] += (weights[4 * c + j] >> shift & (Bits == 4 ? 15 : 255)) * x[j];
      }
    }
    end_sums(tile, part);
  });
}

int64_t peak(int64_t rounds) {
  int32_t sums[kPanel] = {};
  for (int64_t i = 0; i < rounds; ++i)
    for (int lane = 0; lane < kPanel; ++lane) {
      int32_t x = static_cast<int32_t>(i);
      asm volatile("" : "+r"(x));
      sums[lane] += x * 3;
    }
  for (int32_t& sum : sums) asm volatile("" : : "r"(sum));
  return rounds * kPanel * 2;
}

}  // namespace

const Kernels kPortable = {
    "portable", kTileRows, kRows, Back::kRows, Vector::kLanes, product<4>, product<8>, back_rows<Back>, pack, finish,
    activation<Vector>, attend_plain<Vector>, turn, peak, &kAttention,
};

}  // namespace vlapack
