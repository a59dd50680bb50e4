// The Python module `vlapack._kernels`. It takes addresses: its callers, ops/cpu.py and checkpoints/finite.py, have
// checked what they point to, and keep it alive.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <vector>

#include "activation.hpp"
#include "attention.hpp"
#include "dispatch.hpp"
#include "finite.hpp"
#include "layout.hpp"
#include "linear.hpp"
#include "threads.hpp"

namespace nb = nanobind;
using namespace vlapack;
using Address = uintptr_t;

namespace {

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Operations per second of the product's instructions on registers alone, all threads together.
double peak(int threads, int64_t rounds) {
  std::vector<int64_t> done(static_cast<size_t>(threads));
  const double start = seconds();
  parallel(threads, threads, [&](int64_t i) { done[static_cast<size_t>(i)] = kernels().peak(rounds); });
  const double elapsed = seconds() - start;
  double operations = 0;
  for (const int64_t each : done) operations += static_cast<double>(each);
  return operations / elapsed;
}

// Bytes per second at which `threads` threads read `bytes` bytes one after the other.
double stream(Address address, int64_t bytes, int threads) {
  constexpr int64_t kPiece = 1 << 20;
  const int64_t pieces = bytes / kPiece;
  std::vector<uint64_t> sums(static_cast<size_t>(pieces));
  const double start = seconds();
  parallel(pieces, threads, [&](int64_t i) {
    const uint64_t* words = at<const uint64_t>(address) + i * (kPiece / 8);
    uint64_t a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0;
    for (int64_t k = 0; k < kPiece / 8; k += 8) {
      a += words[k], b += words[k + 1], c += words[k + 2], d += words[k + 3];
      e += words[k + 4], f += words[k + 5], g += words[k + 6], h += words[k + 7];
    }
    sums[static_cast<size_t>(i)] = a + b + c + d + e + f + g + h;
  });
  return static_cast<double>(pieces * kPiece) / (seconds() - start);
}

}  // namespace

NB_MODULE(_kernels, m) {
  m.def("available", &available, "The instruction sets of this CPU that were built, best first.");
  m.def("isa", [] { return std::string(kernels().name); }, "The one in use.");
  m.def("choose", &choose, nb::arg("name"), "Use another; ValueError if this CPU does not have it.");
  m.def("thread_source", &thread_source, "`openmp` (torch's team) or `threads`.");
  m.def("peak", &peak, nb::arg("threads"), nb::arg("rounds"), nb::call_guard<nb::gil_scoped_release>());
  m.def("stream", &stream, nb::arg("address"), nb::arg("bytes"), nb::arg("threads"),
        nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "all_finite",
      [](Address floats, int64_t count, int bytes, uint64_t exponent) {
        return all_finite(at<const void>(floats), count, bytes, exponent);
      },
      nb::arg("floats"), nb::arg("count"), nb::arg("bytes"), nb::arg("exponent"),
      nb::call_guard<nb::gil_scoped_release>());
  m.def("prepared_bytes", &prepared_bytes, nb::arg("bits"), nb::arg("outputs"), nb::arg("inputs"));
  m.def(
      "prepare",
      [](int bits, int64_t outputs, int64_t inputs, Address stored, Address prepared, int threads) {
        prepare(bits, outputs, inputs, at<const void>(stored), at<uint8_t>(prepared), threads);
      },
      nb::arg("bits"), nb::arg("outputs"), nb::arg("inputs"), nb::arg("stored"), nb::arg("prepared"),
      nb::arg("threads"), nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "restore",
      [](int bits, int64_t outputs, int64_t inputs, Address prepared, Address stored) {
        restore(bits, outputs, inputs, at<const uint8_t>(prepared), at<void>(stored));
      },
      nb::arg("bits"), nb::arg("outputs"), nb::arg("inputs"), nb::arg("prepared"), nb::arg("stored"),
      nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "activate",
      [](int64_t rows, int64_t channels, Address x, bool bf16, int64_t pitch, Address smooth, Address pre_rotation,
         int64_t pre_count, int64_t pre_size, Address permutation, int permutation_bytes, Address rotation,
         int64_t count, int64_t size, bool transposed, Address scale, int largest, Address q, Address s, Address out,
         int threads) {
        activate({rows, channels, at<const void>(x), bf16 ? Float::bf16 : Float::f32, pitch, at<const float>(smooth),
                  {at<const float>(pre_rotation), pre_count, pre_size, false}, at<const void>(permutation),
                  permutation_bytes, {at<const float>(rotation), count, size, transposed}, at<const float>(scale),
                  largest, at<int8_t>(q), at<float>(s), at<float>(out), threads});
      },
      nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "linear",
      [](int64_t rows, int64_t inputs, int64_t outputs, Address q, Address s, Address weight, int bits,
         Address weight_scale, int64_t group, Address bias, Address out, bool bf16, int threads) {
        linear({rows, inputs, outputs, at<const int8_t>(q), at<const float>(s), at<const uint8_t>(weight), bits,
                at<const void>(weight_scale), group, at<const float>(bias), at<void>(out),
                bf16 ? Float::bf16 : Float::f32, threads});
      },
      nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "attend",
      [](int64_t batches, int64_t groups, int64_t width, int64_t queries, int64_t shared, int64_t tokens,
         int64_t prefix, bool state_token, Address query, int64_t query_batch, int64_t query_group, int64_t query_row,
         Address key, int64_t key_batch, int64_t key_group, int64_t key_token, Address value, int64_t value_batch,
         int64_t value_group, int64_t value_token, Address exists, Address out, int threads) {
        const LaidOut to = {batches, groups, tokens, width, nullptr, nullptr};
        const int64_t rows = queries * shared;
        attend({to, at<const uint16_t>(key), {key_batch, key_group, key_token, 0}, at<const uint16_t>(value),
                {value_batch, value_group, value_token, 0}, 0, tokens},
               {to, tokens, queries, shared, at<const uint16_t>(query),
                {query_batch, query_group, shared * query_row, query_row}, at<uint16_t>(out),
                {groups * rows * width, rows * width, shared * width, width}, prefix, at<const bool>(exists),
                state_token},
               threads);
      },
      nb::call_guard<nb::gil_scoped_release>());
}
