#include "linear.hpp"

#include <algorithm>
#include <cstring>

#include "buffer.hpp"
#include "dispatch.hpp"
#include "threads.hpp"

namespace vlapack {
namespace {

constexpr int kMostTileRows = 12;
constexpr int64_t kTasksPerThread = 4;
constexpr double kSerialWork = 1 << 18;  // products below which waking a second thread costs more than it saves

// How the work is cut: rows into tiles of nearly equal height, channels into groups, outputs into panels.
struct Plan {
  int64_t tiles, steps, group_steps, groups, panels;

  Plan(const Linear& job, int tile_rows)
      : tiles((job.rows + tile_rows - 1) / tile_rows),
        steps((job.inputs + kDepth - 1) / kDepth),
        group_steps(job.group ? job.group / kDepth : std::max<int64_t>(steps, 1)),
        groups(std::max<int64_t>((steps + group_steps - 1) / group_steps, 1)),
        panels((job.outputs + kPanel - 1) / kPanel) {}
};

int64_t first_row(const Linear& job, const Plan& plan, int64_t tile) { return tile * job.rows / plan.tiles; }

// The activations of one tile, four channels of each row after the other as a product reads them; and what its sums
// begin with: minus 8 (or 128) times the sum of a row's activations, group by group, for the weights are stored unsigned.
void pack_tile(const Linear& job, const Plan& plan, int64_t first, int rows, int8_t* packed, int32_t* start) {
  const int32_t offset = job.bits == 4 ? 8 : 128;
  for (int r = 0; r < rows; ++r) {
    const int8_t* row = job.q + (first + r) * job.inputs;
    int8_t* target = packed + 4 * r;
    const int64_t whole = job.inputs / 4;
    for (int64_t k = 0; k < whole; ++k, target += 4 * rows) std::memcpy(target, row + 4 * k, 4);
    for (int64_t k = whole; k < 2 * plan.steps; ++k, target += 4 * rows)
      for (int64_t j = 0; j < 4; ++j) target[j] = 4 * k + j < job.inputs ? row[4 * k + j] : int8_t{0};
    for (int64_t g = 0; g < plan.groups; ++g) {
      const int64_t begin = g * plan.group_steps * kDepth;
      const int64_t end = std::min(job.inputs, begin + plan.group_steps * kDepth);
      int32_t sum = 0;
      for (int64_t k = begin; k < end; ++k) sum += row[k];
      start[g * rows + r] = -offset * sum;
    }
  }
}

// The scales of a panel's outputs, [groups][kPanel] fp32; zero where there is no output.
void panel_scales(const Linear& job, const Plan& plan, int64_t output, int columns, float* scales) {
  std::memset(scales, 0, static_cast<size_t>(plan.groups * kPanel) * sizeof(float));
  if (!job.group) {
    std::memcpy(scales, static_cast<const float*>(job.weight_scale) + output, sizeof(float) * columns);
    return;
  }
  const uint16_t* stored = static_cast<const uint16_t*>(job.weight_scale) + output * plan.groups;
  for (int c = 0; c < columns; ++c)
    for (int64_t g = 0; g < plan.groups; ++g) {
      const uint32_t bits = static_cast<uint32_t>(stored[c * plan.groups + g]) << 16;
      std::memcpy(&scales[g * kPanel + c], &bits, 4);
    }
}

}  // namespace

void linear(const Linear& job) {
  if (job.rows == 0 || job.outputs == 0) return;
  static thread_local Buffer packed_buffer, start_buffer;
  const Kernels& isa = kernels();
  const Plan plan(job, isa.tile_rows);
  const int64_t padded = plan.steps * kDepth;
  int8_t* packed = packed_buffer.hold<int8_t>(job.rows * padded);
  int32_t* start = start_buffer.hold<int32_t>(job.rows * plan.groups);
  const double work = static_cast<double>(job.rows) * static_cast<double>(job.outputs) * static_cast<double>(padded);
  const int threads = work < kSerialWork ? 1 : job.threads;

  parallel(plan.tiles, plan.tiles < 4 ? 1 : threads, [&](int64_t tile) {
    const int64_t first = first_row(job, plan, tile);
    const int rows = static_cast<int>(first_row(job, plan, tile + 1) - first);
    pack_tile(job, plan, first, rows, packed + first * padded, start + first * plan.groups);
  });

  const int64_t panel_bytes = plan.steps * step_bytes(job.bits);
  const int64_t wanted = (threads == 1 ? 1 : kTasksPerThread * threads + plan.panels - 1) / plan.panels;
  const int64_t chunks = std::clamp<int64_t>(wanted, 1, plan.tiles);
  const auto product = job.bits == 4 ? isa.product4 : isa.product8;
  parallel(plan.panels * chunks, threads, [&](int64_t task) {
    static thread_local Buffer scale_buffer;
    alignas(64) int32_t sums[kMostTileRows * kPanel];
    alignas(64) float partial[kMostTileRows * kPanel];
    const int64_t panel = task / chunks, chunk = task % chunks;
    const int64_t output = panel * kPanel;
    const int columns = static_cast<int>(std::min<int64_t>(kPanel, job.outputs - output));
    float* scales = scale_buffer.hold<float>(plan.groups * kPanel);
    panel_scales(job, plan, output, columns, scales);
    for (int64_t tile = chunk * plan.tiles / chunks; tile < (chunk + 1) * plan.tiles / chunks; ++tile) {
      const int64_t first = first_row(job, plan, tile);
      const int rows = static_cast<int>(first_row(job, plan, tile + 1) - first);
      for (int64_t g = 0; g < plan.groups; ++g) {
        const int64_t step = g * plan.group_steps;
        const Tile part = {packed + first * padded + step * kDepth * rows,
                           start + first * plan.groups + g * rows,
                           job.weight + panel * panel_bytes + step * step_bytes(job.bits),
                           std::min(plan.group_steps, plan.steps - step),
                           rows,
                           sums};
        product(part);
        isa.scale(sums, scales + g * kPanel, g == 0, rows, partial);
      }
      const int64_t place = first * job.outputs + output;
      void* out = job.kind == Float::f32 ? static_cast<void*>(static_cast<float*>(job.out) + place)
                                         : static_cast<void*>(static_cast<uint16_t*>(job.out) + place);
      isa.finish({partial, job.s + first, job.bias ? job.bias + output : nullptr, out, job.kind, job.outputs, rows,
                  columns});
    }
  });
}

}  // namespace vlapack
