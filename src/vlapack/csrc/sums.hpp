// How a product begins and ends its sums, and the packing of its activations. Internal linkage, as in float_kernels.hpp.
#pragma once

#include <cstring>
#include <type_traits>

#include "kernels.hpp"

namespace vlapack {
namespace {

// The steps that a tile has of one group of channels.
struct Part {
  const int8_t* activations;
  const uint8_t* weights;
  int64_t steps;
  const int32_t* start;  // [rows], what the sums begin with; null: with the tile's `sums`
  const float* scales;   // [kPanel]
  bool ends;             // the sums become results; else they are left in the tile's `sums`
  bool added;            // to the tile's `partial`
};

// Inlined with its lambda, or every group would begin with a call that reads the part from memory.
template <int Bits, class Use>
inline __attribute__((always_inline)) void by_group(const Tile& tile, const Use& use) {
  Part part = {tile.activations, tile.weights, tile.first_steps, tile.resumed ? nullptr : tile.start,
               tile.scales,      true,         tile.added};
  const int32_t* start = tile.start;
  for (int64_t left = tile.steps - part.steps;; left -= part.steps) {
    part.ends = left > 0 || tile.whole;
    use(part);
    if (left == 0) return;
    part.activations += part.steps * kDepth * tile.rows;
    part.weights += part.steps * kPanel * kDepth * Bits / 8;
    part.steps = left < tile.group_steps ? left : tile.group_steps;
    part.start = start += tile.rows;
    part.scales += kPanel;
    part.added = true;
  }
}

// Sums in registers, `Width` of them side by side from `column` on. Two roundings where results are added, as in the
// reference: of the product, then of the sum.
template <class V, int Rows, int Width>
inline void begin_sums(typename V::Integers (&sums)[Rows][Width], const Tile& tile, const Part& part, int column) {
  if (part.start) {
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) {
      sums[r][0] = V::broadcast(part.start[r]);
#pragma GCC unroll 4
      for (int i = 1; i < Width; ++i) sums[r][i] = sums[r][0];
    }
    return;
  }
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < Width; ++i) sums[r][i] = V::load(tile.sums + r * kPanel + column + i * V::kLanes);
  }
}

template <class V>
inline void add_result(float* to, typename V::Integers sums, const float* scales) {
  V::store(to, V::load(to) + V::real(sums) * V::load(scales));
}

template <class V, int Rows, int Width>
inline void end_sums(const typename V::Integers (&sums)[Rows][Width], const Tile& tile, const Part& part, int column) {
  float* const results = tile.partial + column;
  int32_t* const left = tile.sums + column;
  const float* const scales = part.scales + column;
  const bool ends = part.ends, added = part.added;
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < Width; ++i) {
      const int place = r * kPanel + i * V::kLanes;
      if (!ends)
        V::store(left + place, sums[r][i]);
      else if (added)
        add_result<V>(results + place, sums[r][i], scales + i * V::kLanes);
      else
        V::store(results + place, V::real(sums[r][i]) * V::load(scales + i * V::kLanes));
    }
  }
}

// The same where a product keeps its sums in the tile's `sums`.
inline void begin_sums(const Tile& tile, const Part& part) {
  for (int r = 0; part.start && r < tile.rows; ++r)
    for (int c = 0; c < kPanel; ++c) tile.sums[r * kPanel + c] = part.start[r];
}

inline void end_sums(const Tile& tile, const Part& part) {
  if (!part.ends) return;
  const int32_t* __restrict sums = tile.sums;
  float* __restrict partial = tile.partial;
  for (int r = 0; r < tile.rows; ++r, sums += kPanel, partial += kPanel) {
    if (part.added)
      for (int c = 0; c < kPanel; ++c) partial[c] += static_cast<float>(sums[c]) * part.scales[c];
    else
      for (int c = 0; c < kPanel; ++c) partial[c] = static_cast<float>(sums[c]) * part.scales[c];
  }
}

inline void pack(const Packing& job) {
  const int64_t padded = (job.channels + kDepth - 1) / kDepth * kDepth, whole = job.channels / 4 * 4;
  int8_t* packed = job.packed;
  for (int64_t k = 0; k < whole; k += 4)
    for (int r = 0; r < job.rows; ++r, packed += 4) std::memcpy(packed, job.q + r * job.pitch + k, 4);
  for (int64_t k = whole; k < padded; k += 4)
    for (int r = 0; r < job.rows; ++r)
      for (int64_t j = k; j < k + 4; ++j) *packed++ = j < job.channels ? job.q[r * job.pitch + j] : int8_t{0};
  int32_t* start = job.start;
  for (int64_t first = 0; first < job.channels || start == job.start; first += job.group) {
    const int64_t end = job.channels - first < job.group ? job.channels : first + job.group;
    for (int r = 0; r < job.rows; ++r) {
      int32_t sum = 0;
      for (int64_t k = first; k < end; ++k) sum += job.q[r * job.pitch + k];
      *start++ = -job.offset * sum;
    }
  }
}

}  // namespace
}  // namespace vlapack
