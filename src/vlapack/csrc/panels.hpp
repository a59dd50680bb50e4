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

// The scales of a panel's outputs, [groups][kPanel] fp32; zero where there is no output. A pack stores groups as bf16
// [outputs][groups]: they are widened (a bf16 is the upper half of an fp32) and turned around once per task, so that
// the kernel reads 32 neighbours.
inline void read_scales(const Linear& job, int64_t groups, int64_t panel, float* scales) {
  const int columns = panel_columns(job, panel);
  std::memset(scales, 0, static_cast<size_t>(groups * kPanel) * sizeof(float));
  if (!job.group) {
    std::memcpy(scales, static_cast<const float*>(job.weight_scale) + panel * kPanel, sizeof(float) * columns);
    return;
  }
  const uint16_t* stored = static_cast<const uint16_t*>(job.weight_scale) + panel * kPanel * groups;
  for (int c = 0; c < columns; ++c)
    for (int64_t g = 0; g < groups; ++g) {
      const uint32_t bits = static_cast<uint32_t>(stored[c * groups + g]) << 16;
      std::memcpy(&scales[g * kPanel + c], &bits, 4);
    }
}

}  // namespace vlapack
