// One linear layer: how the work is cut, and which thread does which part. The arithmetic is in the Kernels.
//
// The weight is cut into panels of 32 outputs, the rows into tiles as tall as a kernel's registers allow (4 to 12
// rows), and the channels into steps of 8. One kernel call multiplies one tile by one panel over a run of steps.
//
//                     panel 0   panel 1   panel 2   ...      weights: [panel][step][32 outputs x 8 channels]
//     tile 0        |  sums   |  sums   |  sums   |
//     tile 1        |  sums   |  sums   |  sums   |          sums: int32 [tile's rows][32], one per tile and panel
//     ...
//     activations: [tile][half step][tile's rows][4 channels]
//
// A task is a rectangle of that grid: at most 16 tiles by 4 panels, or 1 tile by 64 panels where there are few rows. It
// walks the rectangle one block of 2048 channels at a time:
//
//     for each block of channels:  for each panel:  for each tile:  multiply
//
// What it touches, for 4-bit weights and the tallest tiles (12 rows, AVX-512; 5 rows, AVX2, in brackets):
//
//     activations of 16 tiles, one block      16 * 12 * 2048          = 384 KiB  (160)  again for every panel
//     int32 sums, fp32 results, of the task   64 * 12 * 32 * (4 + 4)  = 192 KiB   (80)  sums: once a block
//     weights of one panel, one block         256 * 128               =  32 KiB   (32)  again for every tile
//     activations of one tile, one block      12 * 2048               =  24 KiB   (10)
//
// The first two make 576 KiB (240): they stay in a second-level cache of 1 MiB (Zen 4; Zen 3 has 512 KiB and runs
// AVX2). Without blocks of channels the activations of a layer with 16384 inputs would be 3 MiB a task. The last two
// are read side by side by one kernel call. Together they are 56 KiB, more than the 32 KiB of a first-level cache, so
// in a full block both partly come from the second level. That is enough: in a full AVX-512 tile a step reads 224 bytes
// and does 48 products, at most one a cycle, where the second level delivers about 32 bytes a cycle. 8-bit weights
// double the panel.
//
// So a weight comes from memory, or from the third level, once for every 16 tiles. The ten rows of a denoise step are
// one tile: there a byte of 4-bit weights serves 40 operations, so that a core which does 389 GOP/s (Zen 4) reads 10
// GB/s of weights.
#include "linear.hpp"

#include <algorithm>

#include "buffer.hpp"
#include "dispatch.hpp"
#include "matrix_unit.hpp"
#include "panels.hpp"
#include "threads.hpp"

namespace vlapack {
namespace {

constexpr int64_t kTasksPerThread = 8;   // a thread that is free takes the next: none waits long for the others' last
constexpr int64_t kBlockSteps = 256;     // 2048 channels
constexpr int64_t kTogetherTiles = 16;   // most tiles of a task
constexpr int64_t kTogether = 64;        // most tiles times panels of a task: its sums are 64 * 12 * 32
constexpr double kSerialWork = 1 << 22;  // products, 20 us of one thread: waking another costs more than it saves

const MatrixUnit* unit_for(const Linear& job) {
  const MatrixUnit* unit = kernels().matrix_unit;
  return unit && job.inputs && job.rows >= unit->fewest_rows ? unit : nullptr;
}

double products(const Linear& job) {
  const int64_t rows = unit_for(job) ? std::max(job.rows, kUnitRows) : job.rows;
  return static_cast<double>(rows) * static_cast<double>(job.outputs) * static_cast<double>(job.inputs);
}

// Tiles differ by one row at most: 13 rows are 6 and 7, not 12 and a tile of 1 that unpacks as many weights for one row.
int64_t first_row(const Linear& job, const Plan& plan, int64_t tile) { return tile * job.rows / plan.tiles; }

// The activations of one tile, four channels of each row after the other; and what its sums begin with.
//
// Weights are stored unsigned, u = w + 8 (4 bits) or w + 128 (8 bits), so the kernel computes sum(u x). A sum that
// begins at -8 sum(x), or -128 sum(x), ends at sum(w x). It never leaves 32 bits on the way. After some of the products
// it is sum(w x) over the channels that are done minus 8 (128) sum(x) over those that are not, so each channel counts
// for at most 8 * 128 (128 * 128), done or not. That is also how large the result may be: K is below 2^21 channels
// (ops/cpu.py refuses 8-bit layers of more than 131071). The zeros behind the last channel, of both factors, add
// nothing. NEON's 8-bit kernels multiply w itself and put the 128 sum(x) back at the end; see neon.hpp.
void pack_tile(const Linear& job, const Plan& plan, int64_t first, int rows, int8_t* packed, int32_t* start) {
  const int8_t* q = job.q + first * job.inputs;
  const int64_t whole = job.inputs / 4 * 4;
  plan.isa->pack(q, job.inputs, rows, whole, packed);
  for (int64_t k = whole; k < plan.steps * kDepth; ++k)
    for (int r = 0; r < rows; ++r)
      packed[(k / 4 * rows + r) * 4 + k % 4] = k < job.inputs ? q[r * job.inputs + k] : int8_t{0};
  const int32_t offset = job.bits == 4 ? 8 : 128;
  for (int64_t g = 0; g < plan.groups; ++g) {
    const int64_t begin = g * plan.group_steps * kDepth;
    const int64_t end = std::min(job.inputs, begin + plan.group_steps * kDepth);
    for (int r = 0; r < rows; ++r) start[g * rows + r] = -offset * plan.isa->sum(q + r * job.inputs + begin, end - begin);
  }
}

// Writes a tile's outputs, partial * s + bias; the outputs that fill up the last panel are dropped here.
void finish(const Linear& job, const Plan& plan, int64_t panel, int64_t first, int rows, const float* partial) {
  const int64_t output = panel * kPanel, place = first * job.pitch + output;
  void* out = job.kind == Float::f32 ? static_cast<void*>(static_cast<float*>(job.out) + place)
                                     : static_cast<void*>(static_cast<uint16_t*>(job.out) + place);
  const float* bias = job.bias ? job.bias + output : nullptr;
  plan.isa->finish({partial, job.s + first, bias, out, job.kind, job.pitch, rows, panel_columns(job, panel)});
}

// The steps from `step` to `end` of one tile and one panel. A block's edge may fall inside a group, and a block may
// hold many groups. So each kernel call ends at whichever comes first. The first call of a group begins its sums with
// `start`, later ones go on with the sums in memory; when the group ends, its sums times their scales are added to
// `partial`.
void add_block(const Linear& job, const Plan& plan, const int8_t* packed, const int32_t* start, const uint8_t* weights,
               int rows, int64_t step, int64_t end, int32_t* sums, const float* scales, float* partial) {
  const Kernels& isa = *plan.isa;
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

// One task; the file's comment says what is in which cache. The sums of all its tiles and panels are in memory at once,
// because each is only whole after the last block of channels. The buffers belong to the thread and stay for its next
// task.
void multiply(const Linear& job, const Plan& plan, const int8_t* packed, const int32_t* start,
              const Rectangle& task) {
  static thread_local Buffer scale_buffer, sum_buffer, partial_buffer;
  const int64_t panels = task.last_panel - task.first_panel, panel_scales = plan.groups * kPanel;
  float* scales = scale_buffer.hold<float>(panels * panel_scales);
  for (int64_t p = 0; p < panels; ++p) read_scales(job, plan.groups, task.first_panel + p, scales + p * panel_scales);
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
        if (end == plan.steps) finish(job, plan, panel, first, rows, partial + place);
      }
    }
    step = end;
  } while (step < plan.steps);
}

}  // namespace

// A task takes as few panels as make enough tasks, within the caches' limits. Where panels alone make too few (k and v of
// the language model have 256 outputs, 8 panels), tiles are cut into more pieces than the caches want. A matrix unit's
// tiles stay in pairs.
Plan::Plan(const Linear& job)
    : isa(&kernels()),
      unit(unit_for(job)),
      tiles(unit ? unit_tiles(job.rows) : pieces(job.rows, isa->tile_rows)),
      panels(pieces(job.outputs, kPanel)),
      steps(pieces(job.inputs, kDepth)),
      group_steps(job.group ? job.group / kDepth : std::max<int64_t>(steps, 1)),
      groups(std::max<int64_t>(pieces(steps, group_steps), 1)),
      height(unit ? pieces(job.rows, tiles) : isa->tile_rows),
      group_depths(pieces(group_steps, kDepthSteps)),
      depths((groups - 1) * group_depths + pieces(steps - (groups - 1) * group_steps, kDepthSteps)),
      runs(0),
      chunks(0) {
  if (tiles && panels) {
    const int64_t fair = job.threads == 1 ? 1 : kTasksPerThread * job.threads;
    const int64_t most_panels = unit ? unit_panels(depths) : kTogether / std::min(tiles, kTogetherTiles);
    const int64_t fewest = pieces(tiles, unit ? kUnitTiles : kTogetherTiles);
    runs = std::clamp(pieces(fair, fewest), pieces(panels, most_panels), panels);
    chunks = std::clamp(pieces(fair, runs), fewest, unit ? pieces(tiles, 2) : tiles);
  }
  const int64_t rows = unit ? tiles * height : job.rows;
  packed_bytes = pieces(rows * (unit ? depths * kDepthSteps : steps) * kDepth, 64) * 64;
  workspace = packed_bytes + rows * groups * static_cast<int64_t>(sizeof(int32_t));
  pack_tasks = panels ? tiles : 0;
  multiply_tasks = runs * chunks;
}

// Neighbouring tasks, which run at the same time, differ in their panels: they read the same activations.
Rectangle rectangle(const Plan& plan, int64_t task) {
  const int64_t run = task % plan.runs, chunk = task / plan.runs, tall = plan.unit ? 2 : 1;
  const int64_t stacks = pieces(plan.tiles, tall);
  return {run * plan.panels / plan.runs, (run + 1) * plan.panels / plan.runs, chunk * stacks / plan.chunks * tall,
          std::min((chunk + 1) * stacks / plan.chunks * tall, plan.tiles)};
}

void pack_task(const Linear& job, const Plan& plan, void* workspace, int64_t tile) {
  int8_t* packed = static_cast<int8_t*>(workspace);
  int32_t* start = reinterpret_cast<int32_t*>(packed + plan.packed_bytes);
  if (plan.unit) return pack_unit_tile(job, plan, tile, packed, start);
  const int64_t first = first_row(job, plan, tile);
  const int rows = static_cast<int>(first_row(job, plan, tile + 1) - first);
  pack_tile(job, plan, first, rows, packed + first * plan.steps * kDepth, start + first * plan.groups);
}

void multiply_task(const Linear& job, const Plan& plan, void* workspace, int64_t task) {
  const int8_t* packed = static_cast<const int8_t*>(workspace);
  const int32_t* start = reinterpret_cast<const int32_t*>(packed + plan.packed_bytes);
  (plan.unit ? multiply_on_unit : multiply)(job, plan, packed, start, rectangle(plan, task));
}

// All activations are packed before any product, since every panel reads them.
void linear(const Linear& job) {
  static thread_local Buffer buffer;
  Linear shared = job;
  if (products(job) < (unit_for(job) ? kUnitSerialWork : kSerialWork)) shared.threads = 1;
  const Plan plan(shared);
  void* workspace = buffer.hold<char>(plan.workspace);
  parallel(plan.pack_tasks, plan.pack_tasks < 4 ? 1 : shared.threads,
           [&](int64_t tile) { pack_task(shared, plan, workspace, tile); });
  parallel(plan.multiply_tasks, shared.threads,
           [&](int64_t task) { multiply_task(shared, plan, workspace, task); });
}

}  // namespace vlapack
