// The derivative of a linear by its activations: out[m][k] += sum over n of g[m][n] * weight_scale[n][group of k] * w[n][k].
//
// The sum runs over outputs, where the layer's own runs over channels, on the same prepared weights. It is fp32; where an
// instruction set has a kernel of words and outputs have one scale each, g is rounded to 16 bits first (WordTile).
#pragma once

#include "kernels.hpp"

namespace vlapack {

struct Gradient {
  int64_t rows, inputs, outputs;
  const float* g;         // [rows][outputs]
  const uint8_t* weight;  // prepared
  int bits;
  const void* weight_scale;  // as in Linear
  int64_t group;
  float* out;  // [rows][inputs, filled up to a multiple of 8]: added to
  int threads;
};

void linear_gradient(const Gradient& job);

}  // namespace vlapack
