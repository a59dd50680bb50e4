// The Python module `vlapack._kernels`. It takes addresses: its callers, ops/cpu.py and checkpoints/finite.py, have
// checked what they point to, and keep it alive.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <tuple>
#include <vector>

#include "activation.hpp"
#include "attention.hpp"
#include "dispatch.hpp"
#include "finite.hpp"
#include "gradient.hpp"
#include "layout.hpp"
#include "linear.hpp"
#include "plain_attention.hpp"
#include "rotary.hpp"
#include "step.hpp"
#include "team.hpp"
#include "threads.hpp"

namespace nb = nanobind;
using namespace vlapack;
using Address = uintptr_t;

namespace {

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

// Rows x, their dtype and pitch, and the same of what joins them: `Rows::other`.
using Source = std::tuple<Address, bool, int64_t, Address, int64_t>;
// smooth; first rotation, its count and size; permutation and its bytes; rotation, its count, size, whether transposed.
using StepsOf = std::tuple<Address, Address, int64_t, int64_t, Address, int, Address, int64_t, int64_t, bool>;
// Static scale, largest integer, q, s; or the floating result, and whether that is bf16.
using Results = std::tuple<Address, int, Address, Address, Address, bool>;
// Kind; weight, shift and gate, each with the pitch from sample to sample; eps, tokens of a sample, new stream.
using NormOf = std::tuple<int, Address, int64_t, Address, int64_t, Address, int64_t, float, int64_t, Address>;

// Outputs, prepared weight, bits, scales, channels of a group, bias.
using WeightOf = std::tuple<int64_t, Address, int, Address, int64_t, Address>;
// Inputs, their steps, static scale, largest integer, weights.
using ProductOf = std::tuple<int64_t, StepsOf, Address, int, std::vector<WeightOf>>;

StoredSteps stored(const StepsOf& of) {
  const auto [smooth, pre, pre_count, pre_size, permutation, bytes, rotation, count, size, transposed] = of;
  return {at<const float>(smooth), {at<const float>(pre), pre_count, pre_size, false}, at<const void>(permutation),
          bytes, {at<const float>(rotation), count, size, transposed}};
}

void fill(StepProduct& product, const ProductOf& of) {
  const auto& [inputs, steps, scale, largest, weights] = of;
  product.inputs = inputs;
  product.steps.prepare(stored(steps), inputs);
  product.scale = at<const float>(scale), product.largest = largest;
  for (const auto& [outputs, weight, bits, weight_scale, group, bias] : weights) {
    product.weights.push_back({outputs, at<const uint8_t>(weight), bits, at<const void>(weight_scale), group,
                               at<const float>(bias)});
    product.outputs += outputs;
  }
}

Rows all_rows(int64_t rows, int64_t channels, const Source& source, const Results& results) {
  const auto [x, bf16, pitch, other, other_pitch] = source;
  const auto [scale, largest, q, s, out, narrow] = results;
  Rows all = {};
  all.x = at<const void>(x), all.kind = bf16 ? Float::bf16 : Float::f32, all.pitch = pitch;
  all.other = at<const void>(other), all.other_pitch = other_pitch;
  all.rows = rows, all.channels = channels;
  all.scale = at<const float>(scale), all.largest = static_cast<float>(largest);
  all.q = at<int8_t>(q), all.s = at<float>(s);
  all.out = at<void>(out), all.out_kind = narrow ? Float::bf16 : Float::f32;
  return all;
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
  m.def(
      "waits", [] { return std::pair(waits().starts, waits().meetings); },
      "How often threads were started, and how often they met, since the process began; one thread alone does neither.");
  m.def(
      "meet",
      [](int threads, int64_t times) {
        together(threads, [&](Team& team) {
          for (int64_t i = 0; i < times; ++i) team.share(0, [](int64_t) {});
        });
      },
      nb::arg("threads"), nb::arg("times"), nb::call_guard<nb::gil_scoped_release>(),
      "Start threads that meet so often and do nothing else.");
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
      [](int64_t rows, int64_t channels, const Source& source, const StepsOf& steps, const Results& results,
         int threads) { activate(stored(steps), all_rows(rows, channels, source, results), threads); },
      nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "gelu",
      [](int64_t rows, int64_t channels, const Source& source, const StepsOf& steps, const Results& results,
         int threads) {
        Rows all = all_rows(rows, channels, source, results);
        all.gelu = true;
        activate(stored(steps), all, threads);
      },
      nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "norm",
      [](int64_t rows, int64_t channels, const Source& source, const NormOf& of, const StepsOf& steps,
         const Results& results, int threads) {
        const auto [kind, weight, weight_pitch, shift, shift_pitch, gate, gate_pitch, eps, tokens, stream] = of;
        const Norm norm = {static_cast<Norm::Kind>(kind), {at<const float>(weight), weight_pitch},
                           {at<const float>(shift), shift_pitch}, {at<const float>(gate), gate_pitch}, eps, tokens,
                           at<void>(stream)};
        Rows all = all_rows(rows, channels, source, results);
        all.norm = &norm;
        activate(stored(steps), all, threads);
      },
      nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "turn",
      [](bool bf16, int64_t batch, int64_t tokens, int64_t heads, int64_t groups, int64_t width, Address product,
         int64_t pitch, int64_t here, Address rest, int64_t rest_pitch, Address cos, Address sin, int64_t table_pitch,
         Address keys, Address values, int64_t capacity, int64_t first, Address queries, int threads) {
        turn({bf16 ? Float::bf16 : Float::f32, batch, tokens, heads, groups, width, at<const void>(product), pitch,
              here, at<const void>(rest), rest_pitch, at<const void>(cos), at<const void>(sin), table_pitch,
              at<void>(keys), at<void>(values), capacity, first, at<void>(queries)},
             threads);
      },
      nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "laid_out_elements",
      [](int64_t groups, int64_t room, int64_t width) {
        const LaidOut to = {1, groups, room, width, nullptr, nullptr};
        return std::pair(groups * to.key_elements(), groups * to.value_elements());
      },
      nb::arg("groups"), nb::arg("room"), nb::arg("width"));
  m.def(
      "lay_out",
      [](int64_t batches, int64_t groups, int64_t room, int64_t width, Address laid_keys, Address laid_values,
         Address keys, Address values, int64_t first, int64_t count, int threads) {
        const LaidOut to = {batches, groups, room, width, at<uint16_t>(laid_keys), at<uint16_t>(laid_values)};
        const Pitches of = {groups * room * width, room * width, width, 0};
        const LayingOut job = {to, at<const uint16_t>(keys) + first * width, of,
                               at<const uint16_t>(values) + first * width, of, first, count};
        parallel(lay_out_tasks(job), threads, [&](int64_t task) { lay_out_task(job, task); });
      },
      nb::call_guard<nb::gil_scoped_release>());
  nb::class_<Expert>(m, "Expert")
      .def(
          "__init__",
          [](Expert* self, int64_t width, int64_t heads, int64_t groups, int64_t head_dim, float eps, Address norm) {
            new (self) Expert(width, heads, groups, head_dim, eps, at<const float>(norm));
          })
      .def("add_layer",
           [](Expert& self, const std::vector<ProductOf>& products, Address first_norm, Address second_norm) {
             auto layer = std::make_unique<StepLayer>();
             StepProduct* parts[] = {&layer->entry, &layer->mixing, &layer->gate_up, &layer->down};
             for (size_t i = 0; i < 4; ++i) fill(*parts[i], products.at(i));
             layer->first_norm = at<const float>(first_norm), layer->second_norm = at<const float>(second_norm);
             self.layers.push_back(std::move(layer));
           })
      .def(
          "step",
          [](Expert& self, bool bf16, int64_t batch, int64_t tokens, Address x, Address modulations,
             int64_t modulations_pitch, int64_t modulated, Address cos, Address sin, int64_t table_pitch,
             const std::vector<std::tuple<Address, Address, Address, Address>>& past, int64_t capacity, Address exists,
             bool state_token, Address out, int threads) {
            StepCall call = {bf16 ? Float::bf16 : Float::f32, batch, tokens, at<const void>(x),
                             {at<const float>(modulations), modulations_pitch}, modulated, at<const void>(cos),
                             at<const void>(sin), table_pitch, {}, capacity, at<const bool>(exists), state_token,
                             at<float>(out), threads};
            for (const auto& [keys, values, laid_keys, laid_values] : past)
              call.past.push_back({at<void>(keys), at<void>(values), at<uint16_t>(laid_keys), at<uint16_t>(laid_values)});
            step(self, call);
          },
          nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "linear",
      [](int64_t rows, int64_t inputs, int64_t outputs, Address q, Address s, Address weight, int bits,
         Address weight_scale, int64_t group, Address bias, Address out, bool bf16, int threads) {
        linear({rows, inputs, outputs, at<const int8_t>(q), at<const float>(s), at<const uint8_t>(weight), bits,
                at<const void>(weight_scale), group, at<const float>(bias), at<void>(out), outputs,
                bf16 ? Float::bf16 : Float::f32, threads});
      },
      nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "linear_gradient",
      [](int64_t rows, int64_t inputs, int64_t outputs, Address g, Address weight, int bits, Address weight_scale,
         int64_t group, Address out, int threads) {
        linear_gradient({rows, inputs, outputs, at<const float>(g), at<const uint8_t>(weight), bits,
                         at<const void>(weight_scale), group, at<float>(out), threads});
      },
      nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "attend",
      [](bool bf16, int64_t batches, int64_t groups, int64_t width, int64_t queries, int64_t shared, int64_t tokens,
         int64_t prefix, bool state_token, Address exists, int threads, Address query, int64_t query_batch,
         int64_t query_group, int64_t query_row, Address key, int64_t key_batch, int64_t key_group, int64_t key_token,
         Address value, int64_t value_batch, int64_t value_group, int64_t value_token, Address out, int64_t out_batch,
         int64_t out_group, int64_t out_row) {
        const Pitches from = {query_batch, query_group, shared * query_row, query_row};
        const Pitches of_keys = {key_batch, key_group, key_token, 0};
        const Pitches of_values = {value_batch, value_group, value_token, 0};
        const Pitches into = {out_batch, out_group, shared * out_row, out_row};
        if (!bf16)
          return attend({batches, groups, tokens, width, queries, shared, at<const float>(query), from,
                         at<const float>(key), at<const float>(value), of_keys, of_values, at<float>(out), into, prefix,
                         at<const bool>(exists), state_token},
                        threads);
        const LaidOut to = {batches, groups, tokens, width, nullptr, nullptr};
        attend({to, at<const uint16_t>(key), of_keys, at<const uint16_t>(value), of_values, 0, tokens},
               {to, tokens, queries, shared, at<const uint16_t>(query), from, at<uint16_t>(out), into, prefix,
                at<const bool>(exists), state_token},
               threads);
      },
      nb::call_guard<nb::gil_scoped_release>());
}
