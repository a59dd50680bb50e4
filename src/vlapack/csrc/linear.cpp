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
// walks the rectangle one block of about 2048 channels at a time:
//
//     for each block of channels:  for each panel:  for each tile:  multiply
//
// Where channels share a weight scale in groups, the kernel itself ends each group: it adds the sums times their scales to
// fp32 results. A block holds whole groups, unless they are longer than it.
//
// What a task touches, for 4-bit weights and the tallest tiles (12 rows, AVX-512; 5 rows, AVX2, in brackets):
//
//     activations of 16 tiles, one block      16 * 12 * 2048          = 384 KiB  (160)  again for every panel
//     int32 sums, fp32 results, of the task   64 * 12 * 32 * (4 + 4)  = 192 KiB   (80)  once a block
//     weights of one panel, one block         256 * 128               =  32 KiB   (32)  again for every tile
//     activations of one tile, one block      12 * 2048               =  24 KiB   (10)
//
// The first two make 576 KiB (240): they stay in a second-level cache of 1 MiB (Zen 4; Zen 3 has 512 KiB and runs
// AVX2). If there is one block, as with most layers, sums and results are those of one tile and stay in the first level.
// Without blocks of channels the activations of a layer with 16384 inputs would be 3 MiB a task. The last two are read
// side by side by one kernel call. Together they are 56 KiB, more than the 32 KiB of a first-level cache, so in a full
// block both partly come from the second level. That is enough: in a full AVX-512 tile a step reads 224 bytes and does 48
// products, at most one a cycle, where the second level delivers about 32 bytes a cycle. Blocks of 1024 channels, which
// would fit, were no faster. 8-bit weights double the panel.
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
  const int32_t offset = job.bits == 4 ? 8 : 128;
  plan.isa->pack({job.q + first * job.inputs, job.inputs, rows, job.inputs, plan.group_steps * kDepth, offset, packed,
                  start});
}

// Writes a tile's outputs, partial * s + bias; the outputs that fill up the last panel are dropped here.
void finish(const Linear& job, const Plan& plan, int64_t panel, int64_t first, int rows, const float* partial) {
  const int64_t output = panel * kPanel, place = first * job.pitch + output;
  void* out = job.kind == Float::f32 ? static_cast<void*>(static_cast<float*>(job.out) + place)
                                     : static_cast<void*>(static_cast<uint16_t*>(job.out) + place);
  const float* bias = job.bias ? job.bias + output : nullptr;
  plan.isa->finish({partial, job.s + first, bias, out, job.kind, job.pitch, rows, panel_columns(job, panel)});
}

// Where the blocks of channels that a row is cut into begin and end: all about kBlockSteps long, and at the ends of groups
// where there are enough of those.
struct BlockEdges {
  int64_t count, grain, grains, steps;
  explicit BlockEdges(const Plan& plan)
      : count(std::max<int64_t>((plan.steps + kBlockSteps / 2) / kBlockSteps, 1)),
        grain(plan.groups > count ? plan.group_steps : 1),
        grains(pieces(plan.steps, grain)),
        steps(plan.steps) {}
  int64_t edge(int64_t block) const { return std::min(grains * block / count * grain, steps); }
};

// One task; the file's comment says what is in which cache. If there are several blocks of channels, the sums and results
// of all its tiles and panels are in memory at once, because each is only whole after the last one. The buffers belong
// to the thread and stay for its next task.
void multiply(const Linear& job, const Plan& plan, const int8_t* packed, const int32_t* start,
              const Rectangle& task) {
  static thread_local Buffer scale_buffer, sum_buffer, partial_buffer;
  const BlockEdges blocks(plan);
  const int64_t top = first_row(job, plan, task.first_tile), height = first_row(job, plan, task.last_tile) - top;
  const int64_t kept = blocks.count == 1 ? plan.isa->tile_rows : (task.last_panel - task.first_panel) * height;
  int32_t* sums = sum_buffer.hold<int32_t>(kept * kPanel);
  float* partial = partial_buffer.hold<float>(kept * kPanel);
  float* scales = scale_buffer.hold<float>(plan.groups * kPanel);
  for (int64_t block = 0; block < blocks.count; ++block) {
    const int64_t step = blocks.edge(block), end = blocks.edge(block + 1);
    const int64_t first_group = step / plan.group_steps, last_group = std::max(pieces(end, plan.group_steps), first_group + 1);
    for (int64_t panel = task.first_panel; panel < task.last_panel; ++panel) {
      read_scales(job, panel, first_group, last_group, scales);
      if (panel + 1 < task.last_panel) fetch_scales(job, panel + 1, first_group, last_group);
      for (int64_t tile = task.first_tile; tile < task.last_tile; ++tile) {
        const int64_t first = first_row(job, plan, tile);
        const int64_t place = blocks.count == 1 ? 0 : ((panel - task.first_panel) * height + first - top) * kPanel;
        Tile part;
        part.rows = static_cast<int>(first_row(job, plan, tile + 1) - first);
        part.activations = packed + (first * plan.steps + step * part.rows) * kDepth;
        part.weights = job.weight + (panel * plan.steps + step) * step_bytes(job.bits);
        part.steps = end - step;
        part.first_steps = std::min((first_group + 1) * plan.group_steps, end) - step;
        part.group_steps = plan.group_steps;
        part.resumed = step > first_group * plan.group_steps;
        part.whole = end == plan.steps || end % plan.group_steps == 0;
        part.added = first_group > 0;
        part.start = start + first * plan.groups + first_group * part.rows;
        part.scales = scales;
        part.sums = sums + place;
        part.partial = partial + place;
        if (plan.steps)
          job.bits == 4 ? plan.isa->product4(part) : plan.isa->product8(part);
        else  // no channels
          std::fill(part.partial, part.partial + part.rows * kPanel, 0.0f);
        if (end == plan.steps) finish(job, plan, panel, first, part.rows, part.partial);
      }
    }
  }
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
