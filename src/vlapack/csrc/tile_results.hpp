// What becomes of the sums of a block of channels, row by row. Internal linkage, as in float_kernels.hpp.
//
// Vectors do this while the matrix unit multiplies the next tiles, and both share ports and a window of instructions: a
// row may take few of them, or the unit waits. So what kind of row it is (`Kind`) is known when the loop is compiled,
// and `T` may settle rows by instructions of its own.
#pragma once

#include "matrix_unit.hpp"
#include "outputs.hpp"

namespace vlapack {
namespace {

// The sums of one block, of two tiles of rows (or one) by a panel, that wait until the next product has begun.
struct Waiting {
  const int32_t* sums;   // [rows][kPanel], of this block
  int32_t* earlier;      // of the blocks before it in the same group, or null
  const int32_t* start;  // [rows][groups], at this group
  const float* scales;   // [kPanel], of this group
  float* partial;        // [rows][kPanel]: of the groups before; unused where one group is all
  const float* s;        // [rows]
  const float* bias;     // [kPanel]
  char* out;
  int64_t groups;     // of `start`
  int64_t pitch;      // bytes from row to row of `out`
  int columns;
  int rows;
  bool group_ends;   // else the sums are added to `earlier`
  bool first, last;  // of the groups
};

// Wraps around, as the sums of unsigned weights may; see linear.cpp.
inline int32_t add(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
}

struct Nothing {
  static void row(const Waiting&, int) {}
};

struct Add {
  static inline __attribute__((always_inline)) void row(const Waiting& job, int r) {
    const int32_t* __restrict sums = job.sums + r * kPanel;
    int32_t* __restrict earlier = job.earlier + r * kPanel;
    for (int c = 0; c < kPanel; ++c) earlier[c] = add(earlier[c], sums[c]);
  }
};

template <class T, bool Earlier, bool First, bool Last, class Out>
struct Settle {
  static inline __attribute__((always_inline)) void row(const Waiting& job, int r) {
    T::template settle<Earlier, First, Last, Out>(job, r);
  }
};

// The operations are those of `scale` and `finish_rows` in float_kernels.hpp, in their order. Where there is no bias, it
// is -0, which changes nothing.
template <bool Earlier, bool First, bool Last, class Out>
inline void settle_row(const Waiting& job, int r) {
  const int32_t start = job.start[r * job.groups];
  for (int c = 0; c < kPanel; ++c) {
    const int place = r * kPanel + c, sum = add(job.sums[place], start);
    float value = static_cast<float>(Earlier ? add(sum, job.earlier[place]) : sum) * job.scales[c];
    if (!First) value = job.partial[place] + value;
    if (!Last)
      job.partial[place] = value;
    else if (c < job.columns)
      reinterpret_cast<Out*>(job.out + r * job.pitch)[c] = rounded<Out>(value * job.s[r] + job.bias[c]);
  }
}

// Calls `use` with the kind of row that waits.
template <class T, bool Earlier, class Use>
inline void with_settling(const Waiting& job, Float kind, const Use& use) {
  if (!job.last)
    return job.first ? use(Settle<T, Earlier, true, false, float>()) : use(Settle<T, Earlier, false, false, float>());
  if (kind == Float::f32)
    return job.first ? use(Settle<T, Earlier, true, true, float>()) : use(Settle<T, Earlier, false, true, float>());
  job.first ? use(Settle<T, Earlier, true, true, uint16_t>()) : use(Settle<T, Earlier, false, true, uint16_t>());
}

template <class T, class Use>
inline void with_kind(const Waiting& job, Float kind, const Use& use) {
  if (job.rows == 0) return use(Nothing());
  if (!job.group_ends) return use(Add());
  job.earlier ? with_settling<T, true>(job, kind, use) : with_settling<T, false>(job, kind, use);
}

}  // namespace
}  // namespace vlapack
