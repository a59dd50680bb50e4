// Every instruction set of this CPU against plain loops, without Python: for sanitizers, and for other processors under
// an emulator. Arrays are exactly as long as they must be, so that a sanitizer sees every byte read beyond one.
//
//   cmake -S src/vlapack/csrc -B build/exact -DEXACT=ON [-DSANITIZE=ON] && cmake --build build/exact && build/exact/exact
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "activation.hpp"
#include "dispatch.hpp"
#include "layout.hpp"
#include "linear.hpp"

using namespace vlapack;

namespace {

std::mt19937 generator(0);
int failures = 0;

int whole(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }
float real() { return std::normal_distribution<float>()(generator); }

// Memory whose ends a sanitizer guards; not a vector, whose capacity may be larger.
template <class T>
struct Array {
  explicit Array(int64_t count) : data(new T[static_cast<size_t>(count)]()), size(count) {}
  T& operator[](int64_t i) { return data[static_cast<size_t>(i)]; }
  T* get() { return data.get(); }
  std::unique_ptr<T[]> data;
  int64_t size;
};

void check(bool good, const char* what, int64_t m, int64_t n, int64_t k, int detail) {
  if (good) return;
  ++failures;
  std::printf("%s: %s differs at M=%lld N=%lld K=%lld (%d)\n", kernels().name, what, static_cast<long long>(m),
              static_cast<long long>(n), static_cast<long long>(k), detail);
}

float bf16(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float wide;
  std::memcpy(&wide, &bits, 4);
  return wide;
}

void test_linear(int64_t m, int64_t n, int64_t k, int bits, int64_t group, bool narrow) {
  const int64_t groups = group ? (k + group - 1) / group : 1;
  const int low = bits == 4 ? -8 : -128;
  Array<int8_t> q(m * k), w(n * k);
  for (int64_t i = 0; i < q.size; ++i) q[i] = static_cast<int8_t>(i < k ? -128 : whole(-128, 127));
  for (int64_t i = 0; i < w.size; ++i) w[i] = static_cast<int8_t>(i < k ? low : whole(low, -low - 1));
  Array<uint32_t> words(n * ((k + 7) / 8));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < k; ++j)
      words[i * ((k + 7) / 8) + j / 8] |= static_cast<uint32_t>(w[i * k + j] + 8) << 4 * (j % 8);
  const void* stored = bits == 4 ? static_cast<const void*>(words.get()) : w.get();
  Array<uint8_t> prepared(prepared_bytes(bits, n, k));
  prepare(bits, n, k, stored, prepared.get(), 2);

  Array<float> s(m), scale(n), bias(n), out(m * n);
  Array<uint16_t> group_scale(n * groups), narrow_out(m * n);
  for (int64_t i = 0; i < m; ++i) s[i] = std::fabs(real()) + 0.1f;
  for (int64_t i = 0; i < n; ++i) scale[i] = std::fabs(real()), bias[i] = real();
  for (int64_t i = 0; i < group_scale.size; ++i) group_scale[i] = static_cast<uint16_t>(whole(0x3c00, 0x3f80));
  linear({m, k, n, q.get(), s.get(), prepared.get(), bits,
          group ? static_cast<const void*>(group_scale.get()) : scale.get(), group, bias.get(),
          narrow ? static_cast<void*>(narrow_out.get()) : out.get(), narrow ? Float::bf16 : Float::f32, 2});
  bool good = true;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      volatile float sum = 0.0f;  // volatile: rounded after every operation
      for (int64_t g = 0; g < groups; ++g) {
        int64_t exact = 0;
        for (int64_t c = g * group; c < (group ? std::min(k, (g + 1) * group) : k); ++c)
          exact += int64_t{q[i * k + c]} * w[j * k + c];
        volatile float part = static_cast<float>(exact) * (group ? bf16(group_scale[j * groups + g]) : scale[j]);
        sum = sum + part;
      }
      sum = sum * s[i];
      sum = sum + bias[j];
      const float expected = sum;
      good &= narrow ? std::fabs(bf16(narrow_out[i * n + j]) - expected) <= std::fabs(expected) / 256
                     : out[i * n + j] == expected;
    }
  check(good, "product", m, n, k, bits);
}

void test_activation(int64_t m, int64_t k, int64_t block, bool hadamard = false) {
  Array<float> x(m * k), rotation(block * block), s(m);
  Array<uint16_t> order(k);
  Array<int8_t> q(m * k);
  for (int64_t i = 0; i < x.size; ++i) x[i] = real();
  for (int64_t i = 0; i < rotation.size; ++i) {
    bool odd = false;  // are the bits that row and column share
    for (int64_t bits = i / block & i % block; bits; bits &= bits - 1) odd = !odd;
    rotation[i] = hadamard ? (odd ? -0.25f : 0.25f) : real();
  }
  for (int64_t i = 0; i < k; ++i) order[i] = static_cast<uint16_t>(k - 1 - i);
  const StoredBlocks blocks = {block ? rotation.get() : nullptr, 1, block, false};
  activate({m, k, x.get(), Float::f32, k, nullptr, {}, order.get(), 2, blocks, nullptr, 127, q.get(), s.get(), nullptr, 2});
  int64_t off = 0, far = 0;
  for (int64_t i = 0; i < m; ++i) {
    std::vector<double> y(static_cast<size_t>(k));
    double peak = 0;
    for (int64_t c = 0; c < k; ++c) {
      double value = block ? 0 : x[i * k + order[c]];
      for (int64_t b = 0; b < block; ++b)
        value += double{x[i * k + order[c / block * block + b]]} * rotation[b * block + c % block];
      y[static_cast<size_t>(c)] = value;
      peak = std::max(peak, std::fabs(value));
    }
    for (int64_t c = 0; c < k; ++c) {
      const float step = static_cast<float>(peak) / 127.0f;
      const float value = static_cast<float>(y[static_cast<size_t>(c)]) / step;
      const int difference = std::abs(static_cast<int>(std::nearbyint(value)) - q[i * k + c]);
      off += difference;
      far += difference > 1;
    }
  }
  check(block ? far == 0 && off * 1000 <= m * k : off == 0, "activation", m, 0, k, static_cast<int>(block));
}

}  // namespace

int main() {
  for (const std::string& name : available()) {
    choose(name);
    for (const int bits : {4, 8})
      for (const int64_t group : {0, 32})
        for (const bool narrow : {false, true}) {
          for (const int64_t m : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 25}) test_linear(m, 33, 40, bits, group, narrow);
          test_linear(1, 1, 1, bits, group, narrow);
          test_linear(3, 5, 7, bits, group, narrow);
          test_linear(2, 70, 4304, bits, group, narrow);
          test_linear(70, 130, 2061, bits, group, narrow);  // on several threads, in several blocks of channels
        }
    for (const int bits : {4, 8}) {
      // Groups that are less than a matrix unit's depth of 64 channels, no multiple of it, and more than its block of
      // 512; tiles of rows that are odd in number, or empty at the end; several chunks of 2048 channels.
      for (const int64_t group : {8, 24, 72, 128, 200, 520, 1024, 3000}) test_linear(35, 40, 3100, bits, group, true);
      for (const int64_t m : {15, 16, 17, 32, 33, 48, 49, 65, 161}) test_linear(m, 33, 136, bits, 0, false);
      test_linear(3, 2, 16384, bits, 0, false);
      test_linear(18, 300, 4200, bits, 0, true);
    }
    for (const int64_t block : {0, 3, 16, 48, 64})
      for (const int64_t m : {1, 2, 3, 4, 5, 6, 7, 20}) test_activation(m, 192, block);
    for (const int64_t block : {1, 2, 4, 8, 16, 32, 64, 128, 256, 512}) test_activation(5, 1536, block, true);
    test_activation(9, 4304, 16);
    test_activation(70, 2048, 64);
    std::printf("%s: %s\n", name.c_str(), failures ? "wrong" : "exact");
  }
  return failures != 0;
}
