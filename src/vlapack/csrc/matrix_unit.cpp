#include "matrix_unit.hpp"

#include <algorithm>
#include <cstring>

#include "buffer.hpp"
#include "panels.hpp"

namespace vlapack {
namespace {

constexpr int64_t kMostPanels = 64;  // of a task
constexpr int64_t kMostCarried = 8;  // panels of a task whose sums wait for further channels: 8 * 576 * 32 * 4 bytes

}  // namespace

int64_t unit_tiles(int64_t rows) {
  const int64_t tiles = pieces(rows, kMostHeight);
  return tiles == 1 ? 1 : pieces(tiles, 2) * 2;
}

int64_t unit_panels(int64_t depths) { return depths > kChunkDepths ? kMostCarried : kMostPanels; }

// One tile of activations, and what its sums begin with: weights are stored unsigned, see linear.cpp.
void pack_unit_tile(const Linear& job, const Plan& plan, int64_t tile, int8_t* packed, int32_t* start) {
  const int64_t line = plan.height * kDepthChannels, group_channels = plan.group_steps * kDepth;
  const int32_t offset = job.bits == 4 ? -8 : -128;
  packed += tile * plan.depths * line, start += tile * plan.height * plan.groups;
  for (int64_t r = 0; r < plan.height; ++r, packed += kDepthChannels) {
    const int64_t row = tile * plan.height + r;
    for (int64_t g = 0; g < plan.groups; ++g) {
      const int64_t first = g * group_channels, channels = std::min(group_channels, job.inputs - first);
      int8_t* target = packed + g * plan.group_depths * line;
      if (row < job.rows)
        *start++ = offset * plan.unit->pack(job.q + row * job.inputs + first, channels, line, target);
      else
        for (int64_t d = g * plan.group_depths; d < std::min((g + 1) * plan.group_depths, plan.depths); ++d)
          std::memset(packed + d * line, 0, kDepthChannels);
    }
  }
}

void multiply_on_unit(const Linear& job, const Plan& plan, const int8_t* packed, const int32_t* start,
                      const Rectangle& task) {
  static thread_local Buffer scale_buffer, bias_buffer, sum_buffer, partial_buffer;
  const int64_t panels = task.last_panel - task.first_panel, rows = (task.last_tile - task.first_tile) * plan.height;
  const int64_t kept = (plan.depths > kChunkDepths ? panels : 1) * rows * kPanel;
  float* scales = scale_buffer.hold<float>(panels * plan.groups * kPanel);
  for (int64_t p = 0; p < panels; ++p)
    read_scales(job, task.first_panel + p, 0, plan.groups, scales + p * plan.groups * kPanel);
  float* bias = bias_buffer.hold<float>(panels * kPanel);
  const int64_t first_output = task.first_panel * kPanel, last_output = std::min(task.last_panel * kPanel, job.outputs);
  std::fill(bias, bias + panels * kPanel, -0.0f);
  if (job.bias) std::copy(job.bias + first_output, job.bias + last_output, bias);
  const int64_t first_row = task.first_tile * plan.height;
  plan.unit->multiply({job, plan, packed + first_row * plan.depths * kDepthChannels, start + first_row * plan.groups,
                       task.first_tile, task.last_tile, task.first_panel, task.last_panel, scales, bias,
                       sum_buffer.hold<int32_t>(kept), partial_buffer.hold<float>(plan.groups > 1 ? kept : 0)});
}

}  // namespace vlapack
