// How the backward product is cut into tasks, and what of it is in which cache. The arithmetic is in gradient_kernel.hpp
// and gradient_words.hpp.
//
// A task is a run of steps, whose outputs are its own, so threads add nothing to each other's sums. It goes over the
// weight's outputs in blocks of 4 panels, and over the rows in tiles as tall as the kernel's registers allow:
//
//     for each block of panels:   scales of the block, one set per group of channels
//       for each tile of rows:    g of the block, each number four times     128 * 12 * 16 bytes = 24 KiB
//         for each step:          one kernel call sums over the block's 128 outputs and adds to out
//
// The order of the sums is that of the blocks, whatever the threads.
#include "gradient.hpp"

#include <algorithm>

#include "buffer.hpp"
#include "dispatch.hpp"
#include "panels.hpp"
#include "threads.hpp"

namespace vlapack {
namespace {

constexpr int64_t kBlockPanels = 4;
constexpr int64_t kTaskSteps = 128;      // most steps of a task: so many groups' scales are at hand
constexpr int64_t kTasksPerThread = 4;
constexpr double kSerialWork = 1 << 20;  // products

// Every number of the scales of some panels, four times: the four channels of an output that share a vector.
void spread_scales(const Linear& layer, int64_t first_panel, int64_t last_panel, int64_t first_group, int64_t last_group,
                   float* read, float* scales) {
  const int64_t panels = last_panel - first_panel, groups = last_group - first_group;
  for (int64_t p = 0; p < panels; ++p) {
    read_scales(layer, first_panel + p, first_group, last_group, read);
    for (int64_t g = 0; g < groups; ++g)
      for (int n = 0; n < kPanel; ++n)
        std::fill_n(scales + ((g * panels + p) * kPanel + n) * 4, 4, read[g * kPanel + n]);
  }
}

// g of a tile of rows and some panels: [four outputs][rows][16], zero where there is no output.
void spread_gradient(const Gradient& job, int64_t first_row, int rows, int64_t first_panel, int64_t last_panel,
                     float* spread) {
  for (int64_t n = first_panel * kPanel; n < last_panel * kPanel; ++n) {
    float* to = spread + ((n / 4 - first_panel * kPanel / 4) * rows * 4 + n % 4) * 4;
    for (int r = 0; r < rows; ++r, to += 16)
      std::fill_n(to, 4, n < job.outputs ? job.g[(first_row + r) * job.outputs + n] : 0.0f);
  }
}

// One scale an output, and a kernel of words: the same cuts, with scales that go into g.
void word_task(const Gradient& job, int64_t first_step, int64_t last_step) {
  static thread_local Buffer scale_buffer, spread_buffer;
  const Kernels& isa = kernels();
  const int64_t steps = pieces(job.inputs, kDepth), panels = pieces(job.outputs, kPanel);
  const int64_t tiles = pieces(job.rows, isa.gradient_rows);
  float* scales = scale_buffer.hold<float>(kBlockPanels * kPanel + isa.gradient_rows);
  float* units = scales + kBlockPanels * kPanel;
  int16_t* spread = spread_buffer.hold<int16_t>(isa.gradient_rows * kBlockPanels * kPanel * 4);
  for (int64_t panel = 0; panel < panels; panel += kBlockPanels) {
    const int64_t count = std::min(kBlockPanels, panels - panel), first = panel * kPanel;
    const int64_t there = std::min(count * kPanel, job.outputs - first);
    std::fill_n(std::copy_n(static_cast<const float*>(job.weight_scale) + first, there, scales), count * kPanel - there, 0.0f);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t row = tile * job.rows / tiles;
      const int rows = static_cast<int>((tile + 1) * job.rows / tiles - row), panels_here = static_cast<int>(count);
      isa.words->prepare({job.g + row * job.outputs + first, job.outputs, scales, rows, panels_here, there, spread, units});
      const int64_t pitch = steps * step_bytes(job.bits);
      isa.words->product({spread, units, job.weight + panel * pitch + first_step * step_bytes(job.bits), pitch,
                          last_step - first_step, rows, panels_here, job.bits,
                          job.out + row * steps * kDepth + first_step * kDepth, steps * kDepth});
    }
  }
}

void task(const Gradient& job, int64_t first_step, int64_t last_step) {
  static thread_local Buffer read_buffer, scale_buffer, spread_buffer;
  const Kernels& isa = kernels();
  const int64_t steps = pieces(job.inputs, kDepth), panels = pieces(job.outputs, kPanel);
  const int64_t group_steps = job.group ? job.group / kDepth : std::max<int64_t>(steps, 1);
  const int64_t first_group = first_step / group_steps, last_group = pieces(last_step, group_steps);
  const int64_t tiles = pieces(job.rows, isa.gradient_rows);
  Linear layer = {};
  layer.inputs = job.inputs, layer.outputs = job.outputs;
  layer.weight_scale = job.weight_scale, layer.group = job.group;
  float* read = read_buffer.hold<float>((last_group - first_group) * kPanel);
  float* scales = scale_buffer.hold<float>((last_group - first_group) * kBlockPanels * kPanel * 4);
  float* spread = spread_buffer.hold<float>(isa.gradient_rows * kBlockPanels * kPanel * 4);
  for (int64_t panel = 0; panel < panels; panel += kBlockPanels) {
    const int64_t last_panel = std::min(panel + kBlockPanels, panels), count = last_panel - panel;
    spread_scales(layer, panel, last_panel, first_group, last_group, read, scales);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t first_row = tile * job.rows / tiles;
      BackTile part = {};
      part.rows = static_cast<int>((tile + 1) * job.rows / tiles - first_row);
      part.panels = static_cast<int>(count);
      part.bits = job.bits;
      part.weight_pitch = steps * step_bytes(job.bits);
      part.gradient = spread;
      part.out_pitch = steps * kDepth;
      spread_gradient(job, first_row, part.rows, panel, last_panel, spread);
      for (int64_t group = first_group; group < last_group; ++group) {
        const int64_t begin = std::max(group * group_steps, first_step);
        part.steps = std::min((group + 1) * group_steps, last_step) - begin;
        part.scales = scales + (group - first_group) * count * kPanel * 4;
        part.weights = job.weight + panel * part.weight_pitch + begin * step_bytes(job.bits);
        part.out = job.out + first_row * part.out_pitch + begin * kDepth;
        isa.gradient(part);
      }
    }
  }
}

}  // namespace

void linear_gradient(const Gradient& job) {
  const int64_t steps = pieces(job.inputs, kDepth);
  if (!job.rows || !steps) return;
  const double products = static_cast<double>(job.rows) * static_cast<double>(job.inputs) * static_cast<double>(job.outputs);
  const int threads = products < kSerialWork ? 1 : job.threads;
  const int64_t fair = threads == 1 ? kTaskSteps : pieces(steps, kTasksPerThread * threads);
  const int64_t length = std::clamp<int64_t>(fair, 1, kTaskSteps);
  parallel(pieces(steps, length), threads,
           [&](int64_t i) {
             (kernels().words && !job.group ? word_task : task)(job, i * length, std::min((i + 1) * length, steps));
           });
}

}  // namespace vlapack
