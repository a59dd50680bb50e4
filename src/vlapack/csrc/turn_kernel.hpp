// A head turned by its position (RoPE, in the half-split layout). Internal linkage, as in float_kernels.hpp. Values round to
// the stream's dtype wherever plain torch would store a result of it, as in beginning.hpp.
#pragma once

#include "kernels.hpp"
#include "outputs.hpp"

namespace vlapack {
namespace {

// Turns each pair (x_i, x_{i + width / 2}) by its angle.
template <class T>
void turn_typed(const T* __restrict x, const T* __restrict cos, const T* __restrict sin, int64_t width,
                T* __restrict out) {
  const int64_t half = width / 2;
  for (int64_t i = 0; i < half; ++i)
    out[i] = rounded<T>(stored<T>(widen(x[i]) * widen(cos[i])) + stored<T>(widen(x[i + half]) * widen(sin[i])));
  for (int64_t i = half; i < width; ++i)
    out[i] = rounded<T>(stored<T>(widen(x[i]) * widen(cos[i])) + stored<T>(widen(x[i - half]) * widen(sin[i])));
}

inline void turn(Float kind, const void* x, const void* cos, const void* sin, int64_t width, void* out) {
  if (kind == Float::f32)
    turn_typed(static_cast<const float*>(x), static_cast<const float*>(cos), static_cast<const float*>(sin), width,
               static_cast<float*>(out));
  else
    turn_typed(static_cast<const uint16_t*>(x), static_cast<const uint16_t*>(cos), static_cast<const uint16_t*>(sin),
               width, static_cast<uint16_t*>(out));
}

}  // namespace
}  // namespace vlapack
