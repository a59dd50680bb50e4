// softmax(q kᵀ / √D) v in bf16, on keys and values that are laid out once and then serve many queries.
//
// `lay_out_task` and `attend_task` do one piece of the work each. They start no thread and wait for none, so that
// threads which already run can share the pieces: all of `lay_out`, then a barrier, then all of `attend`. A result's
// bits do not depend on how the work was cut.
#pragma once

#include "kernels.hpp"

namespace vlapack {

// How queries, keys, values and results lie in memory: elements from one to the next. Channels are neighbors. A group is
// the heads that share a key, and `head` counts within it.
struct Pitches {
  int64_t batch = 0, group = 0, token = 0, head = 0;
};

constexpr int kBlock = 32;          // tokens of a block of keys, and numbers of a block of scratch memory
constexpr int kValueChannels = 16;  // a pair of values is filled up with zeros to a multiple of these channels

// The layout, for every batch and group:
//
//     keys    [block of 32 tokens][D / 2 pairs of channels][32 tokens][2]
//     values  [pair of tokens][D, up to a multiple of 16][2]
//
// So both products read pairs of bf16: one 32-bit word is what `vdpbf16ps` multiplies with a pair of queries or weights
// and adds to one sum. Lanes are tokens in the first product and channels in the second: no sum crosses a register.
struct LaidOut {
  int64_t batches, groups;
  int64_t room;   // the most tokens that it holds
  int64_t width;  // D, a multiple of 8
  uint16_t* keys;
  uint16_t* values;

  int64_t heads() const { return batches * groups; }
  int64_t padded_width() const { return (width + kValueChannels - 1) / kValueChannels * kValueChannels; }
  // Elements of one batch and group
  int64_t key_elements() const { return (room + kBlock - 1) / kBlock * kBlock * width; }
  int64_t value_elements() const { return (room + 1) / 2 * 2 * padded_width(); }
};

// Tokens [first, first + count) are to be laid out; those before and behind stay as they are. In place of the token that
// the last pair may lack there will be zeros.
struct LayingOut {
  LaidOut to;
  const uint16_t* keys;  // of token `first`
  Pitches key;
  const uint16_t* values;
  Pitches value;
  int64_t first, count;
};

int64_t lay_out_tasks(const LayingOut& job);
void lay_out_task(const LayingOut& job, int64_t task);

struct Attention {
  LaidOut to;
  int64_t tokens;          // S, of which there are keys and values
  int64_t queries;         // tokens that ask
  int64_t shared;          // their heads in a group
  const uint16_t* query;
  Pitches from;
  uint16_t* out;
  Pitches into;
  int64_t prefix;          // the tokens that came before those that ask
  const bool* exists;      // [batches][prefix], or null: all
  bool state_token;        // whether the first query sees the prefix and itself only
};

// How it is cut: every head's rows (its queries, `shared` of each token) into `tiles` of nearly the same height.
struct AttentionPlan {
  int64_t tiles, tasks;
  const AttentionKernels* kernels;
};

// For so many threads; fewer cores than threads are no harm.
AttentionPlan plan_attention(const Attention& job, int threads);
void attend_task(const Attention& job, const AttentionPlan& plan, int64_t task);

// All of it: lays out `source` in memory that the calling thread keeps, in place of `job.to`, and attends.
void attend(LayingOut source, Attention job, int threads);

constexpr int kMostAttentionRows = 16;

// Some rows of one head.
struct AttentionRows {
  int rows;
  const uint16_t* query[kMostAttentionRows];
  uint16_t* out[kMostAttentionRows];
  int64_t seen[kMostAttentionRows];  // how many tokens, from the first, a row sees
  const uint16_t* keys;
  const uint16_t* values;
  int64_t tokens, width, padded_width;
  const bool* exists;  // [prefix] or null
  int64_t prefix;
  float* scratch;  // rows * (blocks of width + blocks of tokens) * kBlock
};

// What an instruction set has for attention.
struct AttentionKernels {
  int rows;  // the most of a tile
  void (*attend)(const AttentionRows&);
  // e to the power of some x <= 0, a multiple of 16 of them: the softmax's, alone, so that a test can see its last bit.
  void (*exponentials)(const float* x, int64_t count, float* y);
};

#if defined(__x86_64__)
extern const AttentionKernels kAvx512Bf16;
#endif

}  // namespace vlapack
