// The action expert's part of a denoise step in one call: every layer, and the norm behind the last. The same kernels as
// its ops one by one, with the same results to the bit; what it saves is the calls, and a start of threads for each.
#pragma once

#include <memory>
#include <vector>

#include "activation.hpp"
#include "linear.hpp"

namespace vlapack {

// One weight of those that read the same input.
struct StepWeight {
  int64_t outputs;
  const uint8_t* weight;  // prepared
  int bits;
  const void* scale;
  int64_t group;
  const float* bias;
};

// Linears that read the same input, and how that is rounded.
struct StepProduct {
  int64_t inputs = 0, outputs = 0;  // of all weights together
  PreparedSteps steps;
  const float* scale = nullptr;
  int largest = 0;
  std::vector<StepWeight> weights;
};

struct StepLayer {
  StepProduct entry, mixing, gate_up, down;
  const float *first_norm, *second_norm;  // [width] each, of plain norms; null where they are adaptive
};

// The expert. What its addresses point to belongs to the caller.
class Expert {
 public:
  Expert(int64_t width, int64_t heads, int64_t groups, int64_t head_dim, float eps, const float* last_norm)
      : width(width), heads(heads), groups(groups), head_dim(head_dim), eps(eps), last_norm(last_norm) {}
  Expert(const Expert&) = delete;

  const int64_t width, heads, groups, head_dim;
  const float eps;
  const float* last_norm;
  std::vector<std::unique_ptr<StepLayer>> layers;
};

// Keys and values of one layer: the prefix's, and room for the expert's own tokens.
struct StepPast {
  void *keys, *values;              // [batch][groups][capacity][head_dim]
  uint16_t *laid_keys, *laid_values;  // the same as attention reads it (`LaidOut`); null for fp32, which it reads as it is
};

struct StepCall {
  Float kind;             // of the stream, and of keys and values
  int64_t batch, tokens;  // its own tokens
  const void* x;          // [batch * tokens][width]
  PerSample modulations;  // [batch or 1][2 layers + 1][factor, shift, gate][width], or absent
  int64_t modulated;      // rows that share one: the tokens, or 1 where each token has its own
  const void *cos, *sin;  // [batch or 1][tokens][head_dim]
  int64_t table_pitch;    // elements from sample to sample, or 0
  std::vector<StepPast> past;
  int64_t capacity;
  const bool* exists;  // [batch][capacity - tokens], which tokens of the prefix exist; null: all
  bool state_token;    // whether the first token sees the prefix and itself only
  float* out;          // [batch * tokens][width]
  int threads;
};

void step(Expert& expert, const StepCall& call);

}  // namespace vlapack
