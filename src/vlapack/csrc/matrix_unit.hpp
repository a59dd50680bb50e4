// A linear on a matrix unit (Intel's AMX), which multiplies tiles of 16 rows by 64 channels by 16 outputs in one
// instruction.
//
// A panel's two halves of 16 outputs are two such tiles: 64 channels are 8 steps of the layout in kernels.hpp, and each
// 64 bytes of a step, unpacked, are the two lines of a tile that hold its 8 channels. So the layout is the same as for
// every other instruction set, and unpacking moves nothing here, either.
//
// Rows are cut into tiles of one height, at most 16, and an even number of them unless there is only one: two tiles of
// rows by two halves of a panel make four products of two loads on each side. Channels are cut into depths of 64; what
// the last depth of a group lacks is zero in the activations.
//
//     activations: [tile][depth][height][64 channels]
#pragma once

#include "linear.hpp"

namespace vlapack {

constexpr int kMostHeight = 16;
constexpr int64_t kDepthSteps = 8;
constexpr int64_t kDepthChannels = kDepthSteps * kDepth;
constexpr int64_t kBlockDepths = 8;                   // unpacked at a time: 16 KB of a panel
constexpr int64_t kChunkDepths = 4 * kBlockDepths;    // 2048 channels, for all panels of a task before the next 2048

constexpr int64_t kUnitTiles = 36;  // most of a task: 576 rows by 2048 channels are 1.2 MB of a second cache of 2 MB
// Products below which one thread is enough: 15 us. Few rows take as long as 32, the time that their weights take.
constexpr double kUnitSerialWork = 1 << 24;
constexpr int64_t kUnitRows = 32;

int64_t unit_tiles(int64_t rows);
int64_t unit_panels(int64_t depths);  // the most of a task

// Some neighbouring panels of some neighbouring tiles, for one thread.
struct TileTask {
  const Linear& job;
  const Plan& plan;
  const int8_t* activations;  // of the first tile
  const int32_t* start;       // [tile rows][groups]: what each sum begins with, from the first tile on
  int64_t first_tile, last_tile, first_panel, last_panel;
  const float* scales;  // [panels][groups][kPanel]
  const float* bias;    // [panels][kPanel], -0 where there is none
  // Room for sums and results between blocks of channels: [rows][kPanel], of each panel if there is another chunk.
  int32_t* sums;
  float* partial;  // null where one group is all
};

struct MatrixUnit {
  int64_t fewest_rows;  // with fewer, the product of the other instructions is faster
  // Some channels of a row into `packed`, 64 to a line and `pitch` bytes from line to line, filled up with zeros;
  // returns their sum.
  int32_t (*pack)(const int8_t* q, int64_t channels, int64_t pitch, int8_t* packed);
  void (*multiply)(const TileTask&);
};

#if defined(__x86_64__)
extern const MatrixUnit kAmx;
int64_t amx_peak(int64_t rounds);  // as in Kernels
#endif
extern const MatrixUnit kAmxEmulated;

// `Plan` cuts a row into `depths` of 64 channels, a whole group into `group_depths`, and the rows into tiles of one
// `height`. Its tasks, given what is packed and what sums begin with:
void pack_unit_tile(const Linear& job, const Plan& plan, int64_t tile, int8_t* packed, int32_t* start);
void multiply_on_unit(const Linear& job, const Plan& plan, const int8_t* packed, const int32_t* start,
                      const Rectangle& task);

}  // namespace vlapack
