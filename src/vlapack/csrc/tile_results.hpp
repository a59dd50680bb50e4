// What becomes of the sums of a block of channels, some rows at a time. Internal linkage, as in float_kernels.hpp.
#pragma once

#include "matrix_unit.hpp"
#include "outputs.hpp"

namespace vlapack {
namespace {

// The sums of one block, of two tiles of rows (or one) by a panel. They wait here until the next product has begun, so
// that vectors work beside the matrix unit.
struct Waiting {
  const int32_t* sums;   // [rows][kPanel], of this block
  int32_t* earlier;      // of the blocks before it in the same group; null: there are none
  bool group_ends;       // else the sums are added to `earlier`
  const int32_t* start;  // [rows][groups], at this group
  const float* scales;   // [kPanel], of this group
  bool first, last;      // of the groups
  float* partial;        // [rows][kPanel]: the groups before; unused where one group is all
  const float* s;        // [rows]
  const float* bias;
  void* out;
  Float kind;
  int64_t groups, pitch;  // of `start`, of `out`
  int columns;
  int rows = 0;
};

// Wraps around, as the sums of unsigned weights may; see linear.cpp.
inline int32_t add(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
}

inline void add_rows(const Waiting& job, int first, int last) {
  const int32_t* __restrict sums = job.sums;
  int32_t* __restrict earlier = job.earlier;
  for (int i = first * kPanel; i < last * kPanel; ++i) earlier[i] = add(earlier[i], sums[i]);
}

// The operations are those of `scale` and `finish_rows` in float_kernels.hpp, in their order.
template <bool First, bool Last, class Out>
void settle_rows(const Waiting& job, int begin, int end) {
  const float* __restrict scales = job.scales;
  for (int r = begin; r < end; ++r) {
    const int32_t* __restrict sums = job.sums + r * kPanel;
    const int32_t start = job.start[r * job.groups];
    float values[kPanel];
    if (job.earlier) {
      const int32_t* __restrict earlier = job.earlier + r * kPanel;
      for (int c = 0; c < kPanel; ++c) values[c] = static_cast<float>(add(add(sums[c], start), earlier[c])) * scales[c];
    } else {
      for (int c = 0; c < kPanel; ++c) values[c] = static_cast<float>(add(sums[c], start)) * scales[c];
    }
    [[maybe_unused]] float* __restrict partial = job.partial + r * kPanel;
    if constexpr (!First)
      for (int c = 0; c < kPanel; ++c) values[c] = partial[c] + values[c];
    if constexpr (!Last) {
      for (int c = 0; c < kPanel; ++c) partial[c] = values[c];
    } else {
      Out* out = static_cast<Out*>(job.out) + r * job.pitch;
      if (job.columns == kPanel)  // a loop whose length the compiler knows
        finish_row(values, job.s[r], job.bias, kPanel, out);
      else
        finish_row(values, job.s[r], job.bias, job.columns, out);
    }
  }
}

template <bool First>
void settle(const Waiting& job, int begin, int end) {
  if (!job.last) return settle_rows<First, false, float>(job, begin, end);
  if (job.kind == Float::f32) return settle_rows<First, true, float>(job, begin, end);
  settle_rows<First, true, uint16_t>(job, begin, end);
}

class Results {
 public:
  // What waited before must be settled.
  void wait(const Waiting& job) {
    job_ = job;
    done_ = 0;
  }

  void settle_some(int count) {
    if (done_ == job_.rows) return;
    const int begin = done_, end = job_.rows - begin < count ? job_.rows : begin + count;
    done_ = end;
    if (!job_.group_ends) return add_rows(job_, begin, end);
    job_.first ? settle<true>(job_, begin, end) : settle<false>(job_, begin, end);
  }

  void settle_all() { settle_some(2 * kMostHeight); }

 private:
  Waiting job_ = {};
  int done_ = 0;
};

}  // namespace
}  // namespace vlapack
