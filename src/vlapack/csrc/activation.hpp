// Transforms the rows of an activation and rounds them to integers.
#pragma once

#include "buffer.hpp"
#include "kernels.hpp"

namespace vlapack {

// Orthogonal blocks as a tensor holds them, [count][size][size]; `transposed` multiplies by their transpose.
struct StoredBlocks {
  const float* data = nullptr;
  int64_t count = 0;
  int64_t size = 0;
  bool transposed = false;
};

// The steps of an activation as tensors hold them.
struct StoredSteps {
  const float* smooth = nullptr;
  StoredBlocks pre_rotation;
  const void* permutation = nullptr;
  int permutation_bytes = 0;  // of an entry: 2 (unsigned), 4 or 8
  StoredBlocks rotation;
};

// The same as kernels read them: checked, and copied where they do not serve as they are.
class PreparedSteps {
 public:
  // Throws std::invalid_argument where the permutation points outside the row.
  const Steps& prepare(const StoredSteps& stored, int64_t channels);
  const Steps& ready() const { return steps_; }

 private:
  Buffer pre_rotation_, permutation_, rotation_;
  Steps steps_;
};

// Rows that one task takes, where there are so many in all.
int64_t rows_of_task(int64_t rows, int threads);

// One task: its rows, of all.
void activate_task(const Steps& steps, const Rows& all, int64_t height, int64_t task);

// All of them. Throws as `PreparedSteps::prepare` does.
void activate(const StoredSteps& stored, const Rows& all, int threads);

}  // namespace vlapack
