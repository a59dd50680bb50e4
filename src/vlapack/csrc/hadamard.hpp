// Sylvester's Hadamard matrix times some channels by sums and differences: log2(size) of them a channel, where a product
// with the matrix takes `size`. Internal linkage, as in float_kernels.hpp, whose `V` has here `exchange<h>` in addition:
// every lane gets what stands in lane i ^ h.
#pragma once

#include <cstdint>

namespace vlapack {
namespace {

template <class V, int Half>
struct Signs {  // -1 in the lanes whose bit `Half` is set
  float values[V::kLanes];
  constexpr Signs() : values() {
    for (int i = 0; i < V::kLanes; ++i) values[i] = i & Half ? -1.0f : 1.0f;
  }
  static const Signs all;
};
template <class V, int Half>
constexpr Signs<V, Half> Signs<V, Half>::all = {};

// The stages between lanes, from `Half` on.
template <class V, int Half>
inline typename V::Register within(typename V::Register x) {
  if constexpr (Half == V::kLanes) {
    return x;
  } else {
    const typename V::Register sign = V::load(Signs<V, Half>::all.values);
    return within<V, 2 * Half>(V::fma(x, sign, V::template exchange<Half>(x)));
  }
}

// Count vectors at once, in registers.
template <class V, int Count>
inline void hadamard_vectors(float* y, typename V::Register factor) {
  typename V::Register x[Count];
#pragma GCC unroll 8
  for (int i = 0; i < Count; ++i) x[i] = within<V, 1>(V::load(y + i * V::kLanes) * factor);
#pragma GCC unroll 8
  for (int half = 1; half < Count; half *= 2)
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i)
      if (!(i & half)) {
        const typename V::Register sum = x[i] + x[i + half];
        x[i + half] = x[i] - x[i + half];
        x[i] = sum;
      }
#pragma GCC unroll 8
  for (int i = 0; i < Count; ++i) V::store(y + i * V::kLanes, x[i]);
}

// y = factor * y H for a block of `size` channels, a power of two and at least a vector.
template <class V>
void hadamard(float* y, int64_t size, float factor) {
  constexpr int64_t kMost = 8 * V::kLanes;
  const typename V::Register factors = V::broadcast(factor);
  switch (size / V::kLanes) {
    case 1: return hadamard_vectors<V, 1>(y, factors);
    case 2: return hadamard_vectors<V, 2>(y, factors);
    case 4: return hadamard_vectors<V, 4>(y, factors);
  }
  for (int64_t i = 0; i < size; i += kMost) hadamard_vectors<V, 8>(y + i, factors);
  for (int64_t half = kMost; half < size; half *= 2)
    for (int64_t i = 0; i < size; i += 2 * half)
      for (int64_t k = i; k < i + half; k += V::kLanes) {
        const typename V::Register a = V::load(y + k), b = V::load(y + k + half);
        V::store(y + k, a + b);
        V::store(y + k + half, a - b);
      }
}

}  // namespace
}  // namespace vlapack
