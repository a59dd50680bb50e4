// Transforms the rows of an activation and rounds them to integers.
#pragma once

#include "kernels.hpp"

namespace vlapack {

// Orthogonal blocks as a tensor holds them, [count][size][size]; `transposed` multiplies by their transpose.
struct StoredBlocks {
  const float* data = nullptr;
  int64_t count = 0;
  int64_t size = 0;
  bool transposed = false;
};

struct Activation {
  int64_t rows, channels;
  const void* x;  // [rows][channels]
  Float kind;
  int64_t pitch;  // elements from row to row
  const float* smooth;
  StoredBlocks pre_rotation;
  const void* permutation;
  int permutation_bytes;  // of an entry: 2 (unsigned), 4 or 8
  StoredBlocks rotation;
  const float* scale;
  int largest;
  int8_t* q;  // [rows][channels], with `s` [rows]; null if
  float* s;
  float* out;  // [rows][channels] takes the transformed values
  int threads;
};

// Throws std::invalid_argument where the permutation points outside the row.
void activate(const Activation& job);

}  // namespace vlapack
