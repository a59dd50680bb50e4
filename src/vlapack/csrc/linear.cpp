#include "linear.hpp"

#include <algorithm>
#include <cstring>

#include "buffer.hpp"
#include "dispatch.hpp"
#include "threads.hpp"

namespace vlapack {
namespace {

constexpr int kMostTileRows = 12;
constexpr int64_t kTasksPerThread = 8;
constexpr double kSerialWork = 1 << 22;  // products, 20 us of one thread: waking another costs more than it saves

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

// The activations of one tile, four channels of each row after the other; and what its sums begin with: minus 8 (or 128)
// times the sum of a row's activations, group by group, for the weights are stored unsigned.
void pack_tile(const Linear& job, const Plan& plan, int64_t first, int rows, int8_t* packed, int32_t* start) {
  const Kernels& isa = kernels();
  const int8_t* q = job.q + first * job.inputs;
  const int64_t whole = job.inputs / 4 * 4;
  isa.pack(q, job.inputs, rows, whole, packed);
  for (int64_t k = whole; k < plan.steps * kDepth; ++k)
    for (int r = 0; r < rows; ++r)
      packed[(k / 4 * rows + r) * 4 + k % 4] = k < job.inputs ? q[r * job.inputs + k] : int8_t{0};
  const int32_t offset = job.bits == 4 ? 8 : 128;
  for (int64_t g = 0; g < plan.groups; ++g) {
    const int64_t begin = g * plan.group_steps * kDepth;
    const int64_t end = std::min(job.inputs, begin + plan.group_steps * kDepth);
    for (int r = 0; r < rows; ++r) start[g * rows + r] = -offset * isa.sum(q + r * job.inputs + begin, end - begin);
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

// Some tiles of rows times one panel of weights.
void multiply(const Linear& job, const Plan& plan, const int8_t* packed, const int32_t* start, int64_t panel,
              int64_t first_tile, int64_t last_tile) {
  static thread_local Buffer scale_buffer;
  alignas(64) int32_t sums[kMostTileRows * kPanel];
  alignas(64) float partial[kMostTileRows * kPanel];
  const Kernels& isa = kernels();
  const int64_t bytes = step_bytes(job.bits), padded = plan.steps * kDepth, output = panel * kPanel;
  const uint8_t* weights = job.weight + panel * plan.steps * bytes;
  const int columns = static_cast<int>(std::min<int64_t>(kPanel, job.outputs - output));
  float* scales = scale_buffer.hold<float>(plan.groups * kPanel);
  panel_scales(job, plan, output, columns, scales);
  for (int64_t tile = first_tile; tile < last_tile; ++tile) {
    const int64_t first = first_row(job, plan, tile);
    const int rows = static_cast<int>(first_row(job, plan, tile + 1) - first);
    for (int64_t g = 0; g < plan.groups; ++g) {
      const int64_t step = g * plan.group_steps;
      const Tile part = {packed + first * padded + step * kDepth * rows,
                         start + first * plan.groups + g * rows,
                         weights + step * bytes,
                         std::min(plan.group_steps, plan.steps - step),
                         rows,
                         sums};
      job.bits == 4 ? isa.product4(part) : isa.product8(part);
      isa.scale(sums, scales + g * kPanel, g == 0, rows, partial);
    }
    const int64_t place = first * job.outputs + output;
    void* out = job.kind == Float::f32 ? static_cast<void*>(static_cast<float*>(job.out) + place)
                                       : static_cast<void*>(static_cast<uint16_t*>(job.out) + place);
    isa.finish({partial, job.s + first, job.bias ? job.bias + output : nullptr, out, job.kind, job.outputs, rows,
                columns});
  }
}

}  // namespace

void linear(const Linear& job) {
  if (job.rows == 0 || job.outputs == 0) return;
  static thread_local Buffer packed_buffer, start_buffer;
  const Plan plan(job, kernels().tile_rows);
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

  // A task is some neighbouring panels, so that a thread reads on where it is; or, of few panels, some of the tiles.
  const int64_t tasks = threads == 1 ? 1 : kTasksPerThread * threads;
  const int64_t together = std::max<int64_t>(plan.panels / tasks, 1);
  const int64_t runs = (plan.panels + together - 1) / together;
  const int64_t chunks = std::clamp<int64_t>((tasks + runs - 1) / runs, 1, plan.tiles);
  parallel(runs * chunks, threads, [&](int64_t task) {
    const int64_t run = task / chunks, chunk = task % chunks;
    for (int64_t panel = run * together; panel < std::min((run + 1) * together, plan.panels); ++panel)
      multiply(job, plan, packed, start, panel, chunk * plan.tiles / chunks, (chunk + 1) * plan.tiles / chunks);
  });
}

}  // namespace vlapack
