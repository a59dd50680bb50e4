// bf16 and fp32, and the last of a linear. Internal linkage, as in float_kernels.hpp.
#pragma once

#include <cstdint>
#include <cstring>

namespace vlapack {
namespace {

inline float widen(float value) { return value; }
inline float widen(uint16_t bf16) {
  const uint32_t bits = static_cast<uint32_t>(bf16) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline uint16_t narrow(float value) {  // to bf16, half to even; NaN as torch writes it
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

template <class Out>
inline Out rounded(float value) {
  if constexpr (sizeof(Out) == 4)
    return value;
  else
    return narrow(value);
}

// What is read back of a value that was stored.
template <class T>
inline float stored(float value) {
  return widen(rounded<T>(value));
}

template <class Out>
inline void finish_row(const float* __restrict partial, float s, const float* __restrict bias, int columns,
                       Out* __restrict out) {
  if (bias)
    for (int c = 0; c < columns; ++c) out[c] = rounded<Out>(partial[c] * s + bias[c]);
  else
    for (int c = 0; c < columns; ++c) out[c] = rounded<Out>(partial[c] * s);
}

}  // namespace
}  // namespace vlapack
