// What each way of cutting a linear needs to know of a panel.
#pragma once

#include <algorithm>
#include <cstring>

#include "linear.hpp"

namespace vlapack {

inline int64_t pieces(int64_t whole, int64_t most) { return (whole + most - 1) / most; }

inline int panel_columns(const Linear& job, int64_t panel) {
  return static_cast<int>(std::min<int64_t>(kPanel, job.outputs - panel * kPanel));
}

using Words = uint16_t __attribute__((vector_size(16)));

// a0 b0 a1 b1 a2 b2 a3 b3, and the same of the other halves.
inline Words lower(Words a, Words b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#else
  return __builtin_shuffle(a, b, Words{0, 8, 1, 9, 2, 10, 3, 11});
#endif
}
inline Words upper(Words a, Words b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
  return __builtin_shuffle(a, b, Words{4, 12, 5, 13, 6, 14, 7, 15});
#endif
}

inline void widen_bf16(uint16_t narrow, float* to) {  // which is the upper half of an fp32
  const uint32_t bits = static_cast<uint32_t>(narrow) << 16;
  std::memcpy(to, &bits, 4);
}

// The scales of eight groups of eight outputs, from [outputs][groups] to [groups][kPanel]. Each round moves the highest
// bit of a scale's place (row, column) to its lowest; after three, what was the row is the column.
inline void turn_scales(const uint16_t* stored, int64_t pitch, float* scales) {
  Words rows[8], next[8];
  for (int c = 0; c < 8; ++c) std::memcpy(&rows[c], stored + c * pitch, sizeof(Words));
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 4; ++i) next[2 * i] = lower(rows[i], rows[i + 4]), next[2 * i + 1] = upper(rows[i], rows[i + 4]);
    for (int i = 0; i < 8; ++i) rows[i] = next[i];
  }
  for (int g = 0; g < 8; ++g, scales += kPanel) {
    const Words first = lower(Words{}, rows[g]), second = upper(Words{}, rows[g]);
    std::memcpy(scales, &first, sizeof(Words));
    std::memcpy(scales + 4, &second, sizeof(Words));
  }
}

// The scales of some groups of a panel's outputs, [groups][kPanel] fp32; zero where there is no output. A pack stores
// groups as bf16 [outputs][groups]: they are widened and turned around, so that the kernel reads 32 neighbours.
inline void read_scales(const Linear& job, int64_t panel, int64_t first_group, int64_t last_group, float* scales) {
  const int columns = panel_columns(job, panel);
  const int64_t groups = last_group - first_group;
  if (columns < kPanel) std::memset(scales, 0, static_cast<size_t>(groups * kPanel) * sizeof(float));
  if (!job.group) {
    std::memcpy(scales, static_cast<const float*>(job.weight_scale) + panel * kPanel, sizeof(float) * columns);
    return;
  }
  const int64_t pitch = pieces(job.inputs, job.group);
  const uint16_t* stored = static_cast<const uint16_t*>(job.weight_scale) + panel * kPanel * pitch + first_group;
  const int64_t eights = columns / 8 * 8, turned = groups / 8 * 8;
  for (int64_t c = 0; c < eights; c += 8)
    for (int64_t g = 0; g < turned; g += 8) turn_scales(stored + c * pitch + g, pitch, scales + g * kPanel + c);
  for (int64_t c = 0; c < columns; ++c)
    for (int64_t g = c < eights ? turned : 0; g < groups; ++g)
      widen_bf16(stored[c * pitch + g], &scales[g * kPanel + c]);
}

// Fetches what `read_scales` will read.
inline void fetch_scales(const Linear& job, int64_t panel, int64_t first_group, int64_t last_group) {
  const int columns = panel_columns(job, panel);
  const int64_t pitch = job.group ? pieces(job.inputs, job.group) : 1, bytes = job.group ? 2 : 4;
  const char* stored = static_cast<const char*>(job.weight_scale) + panel * kPanel * pitch * bytes;
  for (int64_t c = 0; c < columns; ++c)
    for (int64_t at = (c * pitch + first_group) * bytes; at < (c * pitch + last_group) * bytes; at += 64)
      __builtin_prefetch(stored + at);
}

}  // namespace vlapack
