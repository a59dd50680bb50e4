// Every instruction set of this CPU against plain loops, without Python: for sanitizers, and for other processors under
// an emulator. Arrays are exactly as long as they must be, so that a sanitizer sees every byte read beyond one.
//
//   cmake -S src/vlapack/csrc -B build/exact -DEXACT=ON [-DSANITIZE=ON] && cmake --build build/exact && build/exact/exact
#include <stdlib.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "activation.hpp"
#include "attention.hpp"
#include "dispatch.hpp"
#include "gradient.hpp"
#include "layout.hpp"
#include "linear.hpp"
#include "team.hpp"
#include "threads.hpp"

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

// Task by task, the last first, in a workspace that ends where the plan says.
void by_tasks(const Linear& job) {
  const Plan plan(job);
  void* workspace = nullptr;
  if (posix_memalign(&workspace, 64, static_cast<size_t>(plan.workspace))) std::abort();
  for (int64_t i = plan.pack_tasks; i-- > 0;) pack_task(job, plan, workspace, i);
  for (int64_t i = plan.multiply_tasks; i-- > 0;) multiply_task(job, plan, workspace, i);
  free(workspace);
}

void test_linear(int64_t m, int64_t n, int64_t k, int bits, int64_t group, bool narrow, int threads = 2) {
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
  Linear job = {m, k, n, q.get(), s.get(), prepared.get(), bits,
                group ? static_cast<const void*>(group_scale.get()) : scale.get(), group, bias.get(),
                narrow ? static_cast<void*>(narrow_out.get()) : out.get(), n, narrow ? Float::bf16 : Float::f32, threads};
  linear(job);
  Array<float> again(m * n);
  Array<uint16_t> narrow_again(m * n);
  job.out = narrow ? static_cast<void*>(narrow_again.get()) : again.get();
  by_tasks(job);
  bool good = narrow ? std::equal(narrow_out.get(), narrow_out.get() + m * n, narrow_again.get())
                     : std::equal(out.get(), out.get() + m * n, again.get());
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

// The derivative by the activations against a sum in double. What is there before is added to.
void test_gradient(int64_t m, int64_t n, int64_t k, int bits, int64_t group, int threads = 2) {
  const int64_t groups = group ? (k + group - 1) / group : 1, steps = (k + 7) / 8;
  const int low = bits == 4 ? -8 : -128;
  Array<int8_t> w(n * k);
  Array<uint32_t> words(n * steps);
  for (int64_t i = 0; i < w.size; ++i) w[i] = static_cast<int8_t>(i < k ? low : whole(low, -low - 1));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < k; ++j)
      words[i * steps + j / 8] |= static_cast<uint32_t>(w[i * k + j] + 8) << 4 * (j % 8);
  Array<uint8_t> prepared(prepared_bytes(bits, n, k));
  prepare(bits, n, k, bits == 4 ? static_cast<const void*>(words.get()) : w.get(), prepared.get(), 2);
  Array<float> g(m * n), scale(n), out(m * steps * 8);
  Array<uint16_t> group_scale(n * groups);
  for (int64_t i = 0; i < g.size; ++i) g[i] = real();
  for (int64_t i = 0; i < n; ++i) scale[i] = std::fabs(real());
  for (int64_t i = 0; i < group_scale.size; ++i) group_scale[i] = static_cast<uint16_t>(whole(0x3c00, 0x3f80));
  for (int64_t i = 0; i < out.size; ++i) out[i] = 1.0f;
  linear_gradient({m, k, n, g.get(), prepared.get(), bits,
                   group ? static_cast<const void*>(group_scale.get()) : scale.get(), group, out.get(), threads});
  bool good = true;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < k; ++j) {
      double sum = 1.0, size = 1.0, largest = 0.0, weights = 0.0;
      for (int64_t c = 0; c < n; ++c) {
        const double factor = group ? bf16(group_scale[c * groups + j / group]) : scale[c];
        const double term = g[i * n + c] * factor * w[c * k + j];
        sum += term, size += std::fabs(term);
        largest = std::max(largest, std::fabs(g[i * n + c] * factor)), weights += std::abs(w[c * k + j]);
      }
      const double rounding = kernels().words && !group ? largest * weights / 65534 : 0.0;
      good &= std::fabs(out[i * steps * 8 + j] - sum) <= 1e-6 * size + rounding;
    }
  check(good, "gradient", m, n, k, bits);
}

// Every tile of every panel is in one task, and no thread has much more to do than another.
void test_plan(int64_t m, int64_t n, int64_t k) {
  for (int threads = 1; threads <= 64; ++threads) {
    Linear job = {};
    job.rows = m, job.outputs = n, job.inputs = k, job.bits = 4, job.threads = threads;
    const Plan plan(job);
    std::vector<int> times(static_cast<size_t>(plan.tiles * plan.panels));
    std::vector<int64_t> work(static_cast<size_t>(threads));
    for (int64_t i = 0; i < plan.multiply_tasks; ++i) {
      const Rectangle task = rectangle(plan, i);
      for (int64_t p = task.first_panel; p < task.last_panel; ++p)
        for (int64_t t = task.first_tile; t < task.last_tile; ++t) ++times[static_cast<size_t>(p * plan.tiles + t)];
      *std::min_element(work.begin(), work.end()) +=
          (task.last_panel - task.first_panel) * (task.last_tile - task.first_tile);
    }
    const bool once = std::all_of(times.begin(), times.end(), [](int each) { return each == 1; });
    const int64_t smallest = std::min<int64_t>(plan.tiles, plan.unit ? 2 : 1);
    const double even = static_cast<double>(plan.tiles * plan.panels) / threads;
    const double most = static_cast<double>(*std::max_element(work.begin(), work.end()));
    check(once && most <= 1.25 * even + static_cast<double>(smallest), "plan", m, n, k, threads);
  }
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
  Rows rows = {};
  rows.x = x.get(), rows.kind = Float::f32, rows.pitch = k, rows.rows = m, rows.channels = k;
  rows.largest = 127, rows.q = q.get(), rows.s = s.get();
  activate({nullptr, {}, order.get(), 2, blocks}, rows, 2);
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
  // A value that is almost a half may fall on either side of it: one always may, or a small matrix would fail by chance.
  check(block ? far == 0 && (off - 1) * 1000 <= m * k : off == 0, "activation", m, 0, k, static_cast<int>(block));
}

uint16_t narrow(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint16_t>(bits >> 16);
}

// Keys and values are laid out as a chunk does it: the prefix first, then the tokens that ask. `isa` may be one that
// the CPU would not choose.
void test_attention(const AttentionKernels* isa, int64_t batches, int64_t groups, int64_t queries, int64_t shared,
                    int64_t width, int64_t prefix, bool masked, bool state) {
  const int64_t tokens = prefix + queries, rows = queries * shared, heads = batches * groups;
  Array<uint16_t> q(heads * rows * width), k(heads * tokens * width), v(heads * tokens * width), out(q.size);
  for (Array<uint16_t>* each : {&q, &k, &v})
    for (int64_t i = 0; i < each->size; ++i) (*each)[i] = narrow(real());
  Array<bool> exists(batches * prefix);
  for (int64_t i = 0; i < exists.size; ++i) exists[i] = whole(0, 1);
  LaidOut to = {batches, groups, tokens, width, nullptr, nullptr};
  Array<uint16_t> keys(heads * to.key_elements()), values(heads * to.value_elements());
  for (int64_t i = 0; i < keys.size; ++i) keys[i] = 0x7fc0;  // NaN, wherever nothing is laid out
  for (int64_t i = 0; i < values.size; ++i) values[i] = 0x7fc0;
  to.keys = keys.get(), to.values = values.get();
  const Pitches pitches = {groups * tokens * width, tokens * width, width, 0};
  for (const auto& [first, count] : {std::pair{int64_t{0}, prefix}, std::pair{prefix, queries}}) {
    const LayingOut source = {to, k.get() + first * width, pitches, v.get() + first * width, pitches, first, count};
    parallel(lay_out_tasks(source), 2, [&, &source = source](int64_t task) { lay_out_task(source, task); });
  }
  // Queries and results stand token by token, [queries][groups][shared][width], as a product leaves them
  const Pitches by_token = {groups * rows * width, shared * width, groups * shared * width, width};
  const Attention job = {to, tokens, queries, shared, q.get(), by_token, out.get(), by_token, prefix,
                         masked ? exists.get() : nullptr, state};
  AttentionPlan plan = plan_attention(job, 2);
  plan.kernels = isa;
  parallel(plan.tasks, 2, [&](int64_t task) { attend_task(job, plan, task); });

  bool good = true;
  for (int64_t row = 0; row < heads * rows; ++row) {
    const int64_t batch = row / (groups * rows), token = row / (groups * shared) % queries;
    const int64_t head = batch * groups + row / shared % groups;
    std::vector<double> weights(static_cast<size_t>(tokens));
    double sum = 0;
    for (int64_t t = 0; t < tokens; ++t) {
      double score = 0;
      for (int64_t c = 0; c < width; ++c) score += double{bf16(q[row * width + c])} * bf16(k[(head * tokens + t) * width + c]);
      const bool seen = t < prefix ? !masked || exists[batch * prefix + t] : !state || token > 0 || t == prefix;
      sum += weights[static_cast<size_t>(t)] = seen ? std::exp(score / std::sqrt(static_cast<double>(width))) : 0;
    }
    for (int64_t c = 0; c < width; ++c) {
      double expected = 0, size = 0;
      for (int64_t t = 0; t < tokens; ++t) {
        const double part = weights[static_cast<size_t>(t)] / sum * bf16(v[(head * tokens + t) * width + c]);
        expected += part, size += std::fabs(part);
      }
      // Weights and result are rounded to bf16, by 2^-9 at most, and so is what the weights add up to
      good &= std::fabs(bf16(out[row * width + c]) - expected) <= (2 * size + std::fabs(expected)) / 500;
    }
  }
  check(good, "attention", rows, tokens, width, static_cast<int>(heads));
}

void test_exponentials(const AttentionKernels* isa) {
  double worst = 0;
  for (uint32_t first = 0; first < 0x42b00000; first += 16 * 997) {  // magnitudes up to 88
    Array<float> x(16), y(16);
    for (uint32_t i = 0; i < 16; ++i) {
      const uint32_t bits = 0x80000000u + first + i * 997;
      std::memcpy(&x[i], &bits, 4);
    }
    isa->exponentials(x.get(), 16, y.get());
    for (int64_t i = 0; i < 16; ++i) {
      const double expected = std::exp(double{x[i]});
      const double last_bit = std::ldexp(1.0, std::max(std::ilogb(expected), -126) - 23);
      const bool vanishes = x[i] < -87.5f && y[i] == 0.0f;  // below 2^-126.2
      if (!vanishes) worst = std::max(worst, std::fabs(y[i] - expected) / last_bit);
    }
  }
  Array<float> x(16), y(16);
  x[0] = -INFINITY, x[1] = NAN, x[2] = -1e30f;
  isa->exponentials(x.get(), 16, y.get());
  std::printf("%s: e^x within %.2f ulp\n", kernels().name, worst);
  check(worst <= 2 && y[0] == 0 && std::isnan(y[1]) && y[2] == 0 && y[3] == 1, "exponential", 0, 0, 0, 0);
}

void test_attentions(const AttentionKernels* isa) {
  test_exponentials(isa);
  for (const int64_t width : {8, 24, 40, 72, 256})
    for (const int64_t prefix : {0, 1, 15, 16, 17, 31, 33, 70}) {
      test_attention(isa, 1, 1, 1, 1, width, prefix, false, false);
      test_attention(isa, 2, 2, 3, 5, width, prefix, prefix > 0, true);
    }
  for (int64_t queries = 1; queries < 15; ++queries) test_attention(isa, 1, 3, queries, 1, 72, 20, false, true);
  test_attention(isa, 1, 1, 51, 8, 256, 97, true, false);
}

// Rows that begin as GELU of a product, or as the norm of a stream with an update, against doubles.
void test_beginnings(int64_t m, int64_t k, bool narrow) {
  Array<float> x(m * k), other(m * k), weight(k), out(m * k), stream(m * k);
  Array<uint16_t> x16(m * k), other16(m * k), out16(m * k), stream16(m * k);
  for (int64_t i = 0; i < m * k; ++i) {
    x16[i] = static_cast<uint16_t>(whole(0, 1) << 15 | whole(0x3e80, 0x40c0)), x[i] = bf16(x16[i]);
    other16[i] = static_cast<uint16_t>(whole(0, 1) << 15 | whole(0x3e80, 0x40c0)), other[i] = bf16(other16[i]);
  }
  for (int64_t i = 0; i < k; ++i) weight[i] = real();
  Rows rows = {};
  rows.kind = rows.out_kind = narrow ? Float::bf16 : Float::f32;
  rows.x = narrow ? static_cast<const void*>(x16.get()) : x.get(), rows.pitch = k;
  rows.other = narrow ? static_cast<const void*>(other16.get()) : other.get(), rows.other_pitch = k;
  rows.out = narrow ? static_cast<void*>(out16.get()) : out.get(), rows.rows = m, rows.channels = k;
  const double tolerance = narrow ? 0.02 : 1e-5;
  const auto result = [&](int64_t i) { return double{narrow ? bf16(out16[i]) : out[i]}; };
  const auto near = [&](double found, double wanted) {
    return std::fabs(found - wanted) <= tolerance * (std::fabs(wanted) + 0.1);
  };

  rows.gelu = true;
  activate({}, rows, 2);
  bool good = true;
  for (int64_t i = 0; i < m * k; ++i) {
    const double v = x[i], u = std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v);
    good &= near(result(i), v * (1 + std::tanh(u)) / 2 * other[i]);
  }
  check(good, "gelu", m, 0, k, narrow);

  rows.gelu = false;
  const Norm norm = {Norm::rms, {weight.get(), 0}, {}, {}, 1e-6f, m,
                     narrow ? static_cast<void*>(stream16.get()) : stream.get()};
  rows.norm = &norm;
  activate({}, rows, 2);
  good = true;
  for (int64_t i = 0; i < m; ++i) {
    double squares = 0;
    for (int64_t c = 0; c < k; ++c) squares += std::pow(double{narrow ? bf16(stream16[i * k + c]) : stream[i * k + c]}, 2);
    for (int64_t c = 0; c < k; ++c) {
      const double moved = narrow ? bf16(stream16[i * k + c]) : stream[i * k + c];
      good &= near(moved, double{x[i * k + c]} + other[i * k + c]);
      good &= near(result(i * k + c), moved / std::sqrt(squares / static_cast<double>(k) + 1e-6) * (1 + weight[c]));
    }
  }
  check(good, "norm", m, 0, k, narrow);
}

// Stages that need all of the stage before, on more threads than there are cores.
void test_team(int threads) {
  constexpr int64_t kStages = 200, kTasks = 13;
  std::vector<int64_t> numbers(kTasks, 1), next(kTasks);
  together(threads, [&](Team& team) {
    for (int64_t stage = 0; stage < kStages; ++stage) {
      team.share(kTasks, [&](int64_t i) { next[static_cast<size_t>(i)] = numbers[static_cast<size_t>((i + 1) % kTasks)] + i; });
      team.share(kTasks, [&](int64_t i) { numbers[static_cast<size_t>(i)] = next[static_cast<size_t>(i)] % 1000; });
    }
  });
  std::vector<int64_t> wanted(kTasks, 1);
  for (int64_t stage = 0; stage < kStages; ++stage) {
    std::vector<int64_t> moved(kTasks);
    for (int64_t i = 0; i < kTasks; ++i)
      moved[static_cast<size_t>(i)] = (wanted[static_cast<size_t>((i + 1) % kTasks)] + i) % 1000;
    wanted = moved;
  }
  check(numbers == wanted, "team", threads, 0, 0, 0);
}

}  // namespace

int main() {
  for (const int threads : {1, 2, 3, 9}) test_team(threads);
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
    for (const int bits : {4, 8})
      for (const int64_t group : {0, 8, 32}) {
        for (const int64_t m : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 25}) test_gradient(m, 33, 40, bits, group);
        test_gradient(1, 1, 1, bits, group);
        test_gradient(5, 300, 1101, bits, group);
        test_gradient(20, 70, 2061, bits, group, 64);  // several tasks, of one step where they are as many as threads
      }
    for (const int64_t m : {1, 10, 13, 51, 70, 200, 544, 968})
      for (const int64_t n : {1, 256, 1024, 2560, 4304, 16384}) test_plan(m, n, 4096);
    test_linear(51, 1100, 200, 4, 0, false, 64);  // more threads than cores
    test_linear(200, 40, 300, 8, 64, true, 7);
    for (const int64_t block : {0, 3, 16, 48, 64})
      for (const int64_t m : {1, 2, 3, 4, 5, 6, 7, 20}) test_activation(m, 192, block);
    for (const int64_t block : {1, 2, 4, 8, 16, 32, 64, 128, 256, 512}) test_activation(5, 1536, block, true);
    test_activation(9, 4304, 16);
    test_activation(70, 2048, 64);
    for (const bool narrow : {false, true})
      for (const int64_t k : {1, 17, 64, 515, 1100}) test_beginnings(3, k, narrow);
    test_attentions(kernels().attention);
#if defined(__x86_64__)
    // Where a CPU has bf16, the other way of AVX-512 runs here only.
    if (name == "avx512vnni" && kernels().attention != kAvx512Vnni.attention) test_attentions(kAvx512Vnni.attention);
#endif
    std::printf("%s: %s\n", name.c_str(), failures ? "wrong" : "exact");
  }
  return failures != 0;
}
