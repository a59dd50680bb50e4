// What one instruction set has to offer. Everything else (packing, tasks, threads, checks) is written once.
#pragma once

#include <cstdint>

namespace vlapack {

// The prepared layout of a weight, the same for every instruction set. Rows (output channels) stand in panels of 32,
// input channels in steps of 8; a panel is a row of steps, both filled up with zeros. Weights are stored unsigned, w + 8
// or w + 128, so that u8 x s8 instructions take them first; the product then subtracts 8 or 128 times the sum of the
// activations. In a step of 4-bit weights byte 4 r + j holds channel j of row r in its low nibble and channel j + 4 in
// its high one; a step of 8-bit weights is the 128 bytes of channels 0-3, then those of channels 4-7.
//
//     4 bits, a step of 128 bytes     byte 0    byte 1    byte 2    byte 3    byte 4    ...   byte 127
//       low nibble: row, channel       0, 0      0, 1      0, 2      0, 3      1, 0             31, 3
//       high nibble                    0, 4      0, 5      0, 6      0, 7      1, 4             31, 7
//
// So every 32-bit word is one output's four channels, which is what `vpdpbusd` adds into one sum, and what NEON's
// `sdot` does; the activations are packed in fours likewise. A mask gives channels 0-3 of the whole step, a shift and a
// mask channels 4-7: unpacking moves nothing between lanes. A step of 4 bits is two cache lines, one per 16 outputs.
constexpr int kPanel = 32;
constexpr int kDepth = 8;

inline int64_t step_bytes(int bits) { return kPanel * kDepth * bits / 8; }

// Some rows of activations times one panel of weights, over some steps. The channels that share a weight scale, a group,
// are summed as integers. Where a group ends, its sums times their scales begin or are added to the row's results.
struct Tile {
  const int8_t* activations;  // [2 * steps][rows][4]
  const uint8_t* weights;
  int64_t steps;
  int rows;
  int64_t first_steps, group_steps;  // of the first group, as many as are here; of every other one, but for the last
  bool resumed;                      // the first group began in an earlier call, which left its sums in `sums`
  bool whole;                        // the last group ends here; else its sums are left in `sums`
  bool added;                        // the first group is not the row's first: `partial` has results
  const int32_t* start;              // [groups][rows]: what sums begin with
  const float* scales;               // [groups][kPanel]
  int32_t* sums;                     // [rows][kPanel]
  float* partial;                    // [rows][kPanel]
};

// Some rows of a gradient times some neighbouring panels of weights, over some steps that share their scales.
struct BackTile {
  const float* gradient;  // [panels * 8][rows][16]: of four outputs, each four times
  const uint8_t* weights;
  int64_t weight_pitch;  // bytes from panel to panel
  const float* scales;   // [panels * 8][16], likewise
  int64_t steps;
  int rows, panels, bits;
  float* out;         // the first of the steps' channels: added to
  int64_t out_pitch;  // elements from row to row
};

// The same where all channels share an output's scale, in words: g times the scale is rounded to 16 bits, per row and for
// the outputs of one tile. The 128 numbers of a row there are off by at most 1e-4 of their norm.
struct WordTile {
  const int16_t* gradient;  // [panels * 4][rows][16 pairs]: of eight outputs, each pair four times
  const float* units;       // [rows]: what one is worth
  const uint8_t* weights;
  int64_t weight_pitch;
  int64_t steps;
  int rows, panels, bits;
  float* out;
  int64_t out_pitch;
};

// Makes `gradient` and `units` of g, [rows][pitch], and of the scales of `outputs` of a tile's; zero behind them.
struct WordRows {
  const float* g;
  int64_t pitch;
  const float* scales;  // [panels * kPanel], zero behind the last output
  int rows, panels;
  int64_t outputs;
  int16_t* gradient;
  float* units;
};

struct WordGradient {
  void (*prepare)(const WordRows&);
  void (*product)(const WordTile&);
};

// Some rows, to be packed in the order in which a tile reads them.
struct Packing {
  const int8_t* q;
  int64_t pitch;  // from row to row
  int rows;
  int64_t channels, group;  // of a row; that share a weight scale
  int32_t offset;           // 8 or 128: what is added to weights
  int8_t* packed;           // [2 * steps][rows][4], zeros behind the last channel
  int32_t* start;           // [groups][rows]: -offset times a row's sum
};

// Orthogonal blocks, [count][size][padded] floats; columns above `size` are zero. Where all are `hadamard` times
// Sylvester's matrix of ones and minus ones, that is not zero.
struct Blocks {
  const float* data = nullptr;
  int64_t count = 0;
  int64_t size = 0;
  int64_t padded = 0;
  float hadamard = 0;
};

// The steps of an activation, in their order; absent ones are null. See `Transform` in methods/transform.py.
struct Steps {
  const float* smooth = nullptr;
  Blocks pre_rotation;
  const int32_t* permutation = nullptr;
  Blocks rotation;
};

enum class Float { f32, bf16 };

// Values of every sample, [samples][channels]; a pitch of zero where all samples have the same.
struct PerSample {
  const float* data = nullptr;
  int64_t pitch = 0;
};

// A norm of the residual stream, which may have an update added to it first.
struct Norm {
  enum Kind { rms, adaptive, layer } kind;
  PerSample weight, shift, gate;  // shift: absent for rms; gate: what the update is multiplied by, or absent
  float eps;
  int64_t tokens;  // rows of a sample
  void* stream;    // [all rows][channels], of the stream's kind: takes the new stream if there is an update
};

// Some rows of an activation, to be transformed into `out` or rounded into `q` and `s`.
struct Rows {
  const void* x;
  Float kind;
  int64_t pitch;  // elements from row to row
  const void* other;  // of the same kind: GELU's factor, or the update of the stream that is normed; or null
  int64_t other_pitch;
  bool gelu;         // GELU of x, times `other`
  const Norm* norm;  // or the norm of x + `other`; null: x as it is
  int64_t first;     // of these rows among all
  int64_t rows;
  int64_t channels;
  const float* scale;  // one static scale, or null
  float largest;
  int8_t* q;
  float* s;
  void* out;
  Float out_kind;
  float* scratch;  // two buffers of rows * (channels + kSlack)
};

constexpr int64_t kSlack = 32;  // elements that a vector may write behind a row

namespace {  // not shared between files of different instructions

inline const void* row_of(const void* first, Float kind, int64_t elements) {
  return first ? static_cast<const char*>(first) + elements * (kind == Float::f32 ? 4 : 2) : nullptr;
}

// `count` of the rows, from `row` on.
inline Rows some(const Rows& all, int64_t row, int64_t count) {
  Rows part = all;
  part.x = row_of(all.x, all.kind, row * all.pitch);
  part.other = row_of(all.other, all.kind, row * all.other_pitch);
  part.first = all.first + row;
  part.rows = count;
  if (all.q) part.q = all.q + row * all.channels, part.s = all.s + row;
  if (all.out) part.out = const_cast<void*>(row_of(all.out, all.out_kind, row * all.channels));
  return part;
}

}  // namespace

// The last of a linear: out = sums * s + bias.
struct Outputs {
  const float* partial;  // [rows][kPanel]
  const float* s;        // [rows]
  const float* bias;     // [columns] or null
  void* out;
  Float kind;
  int64_t pitch;  // elements from row to row
  int rows;
  int columns;
};

struct AttentionKernels;

// One query [width] and all keys and values of its head, [tokens][width] each, in fp32.
struct PlainRow {
  const float *query, *keys, *values;
  int64_t key_pitch, value_pitch;  // elements from token to token
  int64_t tokens, width;
  int64_t seen;        // the first so many tokens
  const bool* exists;  // [prefix], of the tokens before those that ask; null: all
  int64_t prefix;
  float* scores;  // [tokens], and room for a vector behind them
  float* out;     // [width]
};

struct MatrixUnit;

struct Kernels {
  const char* name;
  int tile_rows;        // the most rows of a product's tile
  int activation_rows;  // the most rows of an activation's tile
  int gradient_rows;    // the most rows of a backward product's tile
  int lanes;            // floats in a vector: what `Blocks.padded` is a multiple of
  void (*product4)(const Tile&);
  void (*product8)(const Tile&);
  void (*gradient)(const BackTile&);
  void (*pack)(const Packing&);
  void (*finish)(const Outputs&);
  void (*activation)(const Steps&, const Rows&);
  void (*attend_plain)(const PlainRow&);
  // Turns a head by its position (RoPE, in the half-split layout): cos, sin and out are of x's kind, [width]
  void (*turn)(Float kind, const void* x, const void* cos, const void* sin, int64_t width, void* out);
  // Runs the product's instructions on registers alone; returns the operations (2 per product and sum) done.
  int64_t (*peak)(int64_t rounds);
  const AttentionKernels* attention;
  const WordGradient* words = nullptr;      // twice as fast as `gradient`
  const MatrixUnit* matrix_unit = nullptr;  // takes over where there are enough rows; see matrix_unit.hpp
};

#if defined(__x86_64__)
extern const Kernels kAvx512Vnni, kAvxVnni, kAvx2;
#elif defined(__aarch64__)
extern const Kernels kNeonI8mm, kNeon;
#endif
extern const Kernels kPortable;

}  // namespace vlapack
