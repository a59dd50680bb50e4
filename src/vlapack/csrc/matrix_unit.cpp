#include "matrix_unit.hpp"

#include <algorithm>
#include <cstring>

#include "buffer.hpp"
#include "panels.hpp"
#include "threads.hpp"

namespace vlapack {
namespace {

constexpr int64_t kTasksPerThread = 8;
constexpr int64_t kMostTiles = 36;   // of a task: 576 rows by 2048 channels are 1.2 MB of a second cache of 2 MB
constexpr int64_t kMostPanels = 64;  // of a task
constexpr int64_t kMostCarried = 8;  // panels of a task whose sums wait for further channels: 8 * 576 * 32 * 4 bytes
// Products below which one thread is enough: 15 us. Few rows take as long as 32, the time that their weights take.
constexpr double kSerialWork = 1 << 24;
constexpr int64_t kRowsForWeights = 32;

int64_t tile_count(int64_t rows) {
  const int64_t tiles = pieces(rows, kMostHeight);
  return tiles == 1 ? 1 : pieces(tiles, 2) * 2;
}

}  // namespace

TilePlan::TilePlan(const Linear& job)
    : tiles(tile_count(job.rows)),
      height(pieces(job.rows, tiles)),
      steps(pieces(job.inputs, kDepth)),
      group_steps(job.group ? job.group / kDepth : std::max<int64_t>(steps, 1)),
      groups(std::max<int64_t>(pieces(steps, group_steps), 1)),
      group_depths(pieces(group_steps, kDepthSteps)),
      depths((groups - 1) * group_depths + pieces(steps - (groups - 1) * group_steps, kDepthSteps)),
      panels(pieces(job.outputs, kPanel)) {}

namespace {

// One tile of activations, and what its sums begin with: weights are stored unsigned, see linear.cpp.
void pack_tile(const Linear& job, const TilePlan& plan, const MatrixUnit& unit, int64_t tile, int8_t* packed,
               int32_t* start) {
  const int64_t line = plan.height * kDepthChannels, group_channels = plan.group_steps * kDepth;
  const int32_t offset = job.bits == 4 ? -8 : -128;
  for (int64_t r = 0; r < plan.height; ++r, packed += kDepthChannels) {
    const int64_t row = tile * plan.height + r;
    for (int64_t g = 0; g < plan.groups; ++g) {
      const int64_t first = g * group_channels, channels = std::min(group_channels, job.inputs - first);
      int8_t* target = packed + g * plan.group_depths * line;
      if (row < job.rows)
        *start++ = offset * unit.pack(job.q + row * job.inputs + first, channels, line, target);
      else
        for (int64_t d = g * plan.group_depths; d < std::min((g + 1) * plan.group_depths, plan.depths); ++d)
          std::memset(packed + d * line, 0, kDepthChannels);
    }
  }
}

}  // namespace

void multiply_tiles(const Linear& job, const MatrixUnit& unit) {
  static thread_local Buffer packed_buffer, start_buffer;
  const TilePlan plan(job);
  const int64_t tile_bytes = plan.depths * plan.height * kDepthChannels;
  int8_t* packed = packed_buffer.hold<int8_t>(plan.tiles * tile_bytes);
  int32_t* start = start_buffer.hold<int32_t>(plan.tiles * plan.height * plan.groups);
  const int64_t rows_worth = std::max(job.rows, kRowsForWeights);
  const double work = static_cast<double>(rows_worth) * static_cast<double>(job.outputs * job.inputs);
  const int threads = work < kSerialWork ? 1 : job.threads;
  parallel(plan.tiles, plan.tiles < 4 ? 1 : threads, [&](int64_t tile) {
    pack_tile(job, plan, unit, tile, packed + tile * tile_bytes, start + tile * plan.height * plan.groups);
  });

  const bool carried = plan.depths > kChunkDepths;
  const int64_t fair = threads == 1 ? 1 : kTasksPerThread * threads;
  const int64_t fewest = pieces(plan.tiles, kMostTiles), most = carried ? kMostCarried : kMostPanels;
  const int64_t together = std::clamp<int64_t>(plan.panels * fewest / fair, 1, most);
  const int64_t runs = pieces(plan.panels, together), pairs = pieces(plan.tiles, 2);
  const int64_t chunks = std::clamp(pieces(fair, runs), fewest, pairs);
  parallel(runs * chunks, threads, [&](int64_t index) {
    static thread_local Buffer scale_buffer, bias_buffer, sum_buffer, partial_buffer;
    const int64_t run = index % runs, chunk = index / runs;
    const int64_t first_tile = 2 * (chunk * pairs / chunks);
    const int64_t last_tile = std::min(2 * ((chunk + 1) * pairs / chunks), plan.tiles);
    const int64_t first_panel = run * together, last_panel = std::min(first_panel + together, plan.panels);
    const int64_t panels = last_panel - first_panel, rows = (last_tile - first_tile) * plan.height;
    const int64_t kept = (carried ? panels : 1) * rows * kPanel;
    float* scales = scale_buffer.hold<float>(panels * plan.groups * kPanel);
    for (int64_t p = 0; p < panels; ++p)
      read_scales(job, plan.groups, first_panel + p, scales + p * plan.groups * kPanel);
    float* bias = bias_buffer.hold<float>(panels * kPanel);
    const int64_t first_output = first_panel * kPanel, last_output = std::min(last_panel * kPanel, job.outputs);
    std::fill(bias, bias + panels * kPanel, -0.0f);
    if (job.bias) std::copy(job.bias + first_output, job.bias + last_output, bias);
    unit.multiply({job, plan, packed + first_tile * tile_bytes, start + first_tile * plan.height * plan.groups,
                   first_tile, last_tile, first_panel, last_panel, scales, bias, sum_buffer.hold<int32_t>(kept),
                   partial_buffer.hold<float>(plan.groups > 1 ? kept : 0)});
  });
}

}  // namespace vlapack
