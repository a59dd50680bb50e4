// y = s * weight_scale * (q Wᵀ) + bias, the integer product exact.
#pragma once

#include "kernels.hpp"

namespace vlapack {

struct Linear {
  int64_t rows, inputs, outputs;
  const int8_t* q;        // [rows][inputs]
  const float* s;         // [rows]
  const uint8_t* weight;  // prepared
  int bits;
  const void* weight_scale;  // fp32 [outputs], or bf16 [outputs][groups]
  int64_t group;             // input channels that share a scale, a multiple of 8; 0: all
  const float* bias;         // [outputs] or null
  void* out;                 // [rows][outputs]
  Float kind;
  int threads;
};

void linear(const Linear& job);

}  // namespace vlapack
