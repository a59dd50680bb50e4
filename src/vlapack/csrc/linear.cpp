#include "linear.hpp"

#include <algorithm>
#include <cstring>

#include "buffer.hpp"
#include "dispatch.hpp"
#include "threads.hpp"

namespace vlapack {
namespace {

constexpr int64_t kTasksPerThread = 8;  // so that none waits long for the others' last
// A task's activations, in a block of channels, and its sums fit into the second cache; a panel's weights into the first.
constexpr int64_t kBlockSteps = 256;     // 2048 channels
constexpr int64_t kTogetherTiles = 16;   // of up to 12 rows
constexpr int64_t kTogether = 64;        // tiles times panels
constexpr double kSerialWork = 1 << 22;  // products, 20 us of one thread: waking another costs more than it saves

int64_t pieces(int64_t whole, int64_t most) { return (whole + most - 1) / most; }

// How the work is cut: rows into tiles of nearly equal height, channels into groups, outputs into panels.
struct Plan {
  int64_t tiles, steps, group_steps, groups, panels;

  Plan(const Linear& job, int tile_rows)
      : tiles(pieces(job.rows, tile_rows)),
        steps(pieces(job.inputs, kDepth)),
        group_steps(job.group ? job.group / kDepth : std::max<int64_t>(steps, 1)),
        groups(std::max<int64_t>(pieces(steps, group_steps), 1)),
        panels(pieces(job.outputs, kPanel)) {}
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

int panel_columns(const Linear& job, int64_t panel) {
  return static_cast<int>(std::min<int64_t>(kPanel, job.outputs - panel * kPanel));
}

// The scales of a panel's outputs, [groups][kPanel] fp32; zero where there is no output.
void read_scales(const Linear& job, const Plan& plan, int64_t panel, float* scales) {
  const int columns = panel_columns(job, panel);
  std::memset(scales, 0, static_cast<size_t>(plan.groups * kPanel) * sizeof(float));
  if (!job.group) {
    std::memcpy(scales, static_cast<const float*>(job.weight_scale) + panel * kPanel, sizeof(float) * columns);
    return;
  }
  const uint16_t* stored = static_cast<const uint16_t*>(job.weight_scale) + panel * kPanel * plan.groups;
  for (int c = 0; c < columns; ++c)
    for (int64_t g = 0; g < plan.groups; ++g) {
      const uint32_t bits = static_cast<uint32_t>(stored[c * plan.groups + g]) << 16;
      std::memcpy(&scales[g * kPanel + c], &bits, 4);
    }
}

void finish(const Linear& job, int64_t panel, int64_t first, int rows, const float* partial) {
  const int64_t output = panel * kPanel, place = first * job.outputs + output;
  void* out = job.kind == Float::f32 ? static_cast<void*>(static_cast<float*>(job.out) + place)
                                     : static_cast<void*>(static_cast<uint16_t*>(job.out) + place);
  const float* bias = job.bias ? job.bias + output : nullptr;
  kernels().finish({partial, job.s + first, bias, out, job.kind, job.outputs, rows, panel_columns(job, panel)});
}

// What one thread takes at a time: some neighbouring panels of some neighbouring tiles.
struct Task {
  int64_t first_panel, last_panel, first_tile, last_tile;
};

// The steps from `step` to `end` of one tile and one panel; `partial` takes the sums of every group that ends here.
void add_block(const Linear& job, const Plan& plan, const int8_t* packed, const int32_t* start, const uint8_t* weights,
               int rows, int64_t step, int64_t end, int32_t* sums, const float* scales, float* partial) {
  const Kernels& isa = kernels();
  do {
    const int64_t group = step / plan.group_steps;
    const int64_t last = std::min((group + 1) * plan.group_steps, plan.steps), next = std::min(last, end);
    const int32_t* begin = step == group * plan.group_steps ? start + group * rows : nullptr;
    const Tile part = {packed + step * kDepth * rows, begin, weights + step * step_bytes(job.bits), next - step, rows,
                       sums};
    job.bits == 4 ? isa.product4(part) : isa.product8(part);
    if (next == last) isa.scale(sums, scales + group * kPanel, group == 0, rows, partial);
    step = next;
  } while (step < end);
}

// A block of channels after the other: its activations then stay in the second cache from panel to panel, its weights in
// the first from tile to tile, and the sums wait.
void multiply(const Linear& job, const Plan& plan, const int8_t* packed, const int32_t* start, const Task& task) {
  static thread_local Buffer scale_buffer, sum_buffer, partial_buffer;
  const int64_t panels = task.last_panel - task.first_panel, panel_scales = plan.groups * kPanel;
  float* scales = scale_buffer.hold<float>(panels * panel_scales);
  for (int64_t p = 0; p < panels; ++p) read_scales(job, plan, task.first_panel + p, scales + p * panel_scales);
  const int64_t top = first_row(job, plan, task.first_tile), height = first_row(job, plan, task.last_tile) - top;
  int32_t* sums = sum_buffer.hold<int32_t>(panels * height * kPanel);
  float* partial = partial_buffer.hold<float>(panels * height * kPanel);
  int64_t step = 0;
  do {
    const int64_t end = std::min(step + kBlockSteps, plan.steps);
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t panel = task.first_panel + p;
      const uint8_t* weights = job.weight + panel * plan.steps * step_bytes(job.bits);
      for (int64_t tile = task.first_tile; tile < task.last_tile; ++tile) {
        const int64_t first = first_row(job, plan, tile), place = (p * height + first - top) * kPanel;
        const int rows = static_cast<int>(first_row(job, plan, tile + 1) - first);
        add_block(job, plan, packed + first * plan.steps * kDepth, start + first * plan.groups, weights, rows, step, end,
                  sums + place, scales + p * panel_scales, partial + place);
        if (end == plan.steps) finish(job, panel, first, rows, partial + place);
      }
    }
    step = end;
  } while (step < plan.steps);
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

  const int64_t fair = threads == 1 ? 1 : kTasksPerThread * threads;
  const int64_t fewest = pieces(plan.tiles, kTogetherTiles);
  const int64_t together =
      std::clamp<int64_t>(plan.panels * fewest / fair, 1, kTogether / std::min(plan.tiles, kTogetherTiles));
  const int64_t runs = pieces(plan.panels, together), chunks = std::clamp(pieces(fair, runs), fewest, plan.tiles);
  parallel(runs * chunks, threads, [&](int64_t task) {
    const int64_t run = task % runs, chunk = task / runs;
    multiply(job, plan, packed, start,
             {run * together, std::min((run + 1) * together, plan.panels), chunk * plan.tiles / chunks,
              (chunk + 1) * plan.tiles / chunks});
  });
}

}  // namespace vlapack
