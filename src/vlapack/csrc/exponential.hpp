// e^x on vectors. Internal linkage, as in float_kernels.hpp.
#pragma once

#include <cstdint>
#include <cstring>

namespace vlapack {
namespace {

// A register of as many words as floats
template <int Lanes>
struct Words {
  typedef uint32_t Register __attribute__((vector_size(4 * Lanes)));
};
template <>
struct Words<1> {
  using Register = uint32_t;
};

template <class To, class From>
inline To as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

// e^x for x <= 0, within 1 ulp where there is `fma` and 2 elsewhere; NaN stays NaN, and what is below 2^-126.5 becomes 0.
// x = n ln 2 + r with |r| <= ln 2 / 2: a polynomial for e^r (Cephes' `expf`), and the exponent's bits for 2^n.
template <class V>
inline typename V::Register exponential(typename V::Register x) {
  using Register = typename V::Register;
  using Bits = typename Words<V::kLanes>::Register;
  constexpr float kMagic = 12582912.0f + 127;  // 1.5 * 2^23: the last bits of a sum with it are a whole number
  x = V::larger(V::broadcast(-88.029694f), x);  // -127 ln 2, whose 2^n is 0 in what follows
  const Register shifted = V::fma(x, V::broadcast(1.44269504f), V::broadcast(kMagic));
  const Register n = shifted - V::broadcast(kMagic);
  Register r = V::fma(n, V::broadcast(-0.693359375f), x);  // ln 2 in two parts, the first of few bits
  r = V::fma(n, V::broadcast(2.12194440e-4f), r);
  Register y = V::broadcast(1.9875691500e-4f);
  y = V::fma(y, r, V::broadcast(1.3981999507e-3f));
  y = V::fma(y, r, V::broadcast(8.3334519073e-3f));
  y = V::fma(y, r, V::broadcast(4.1665795894e-2f));
  y = V::fma(y, r, V::broadcast(1.6666665459e-1f));
  y = V::fma(y, r, V::broadcast(5.0000001201e-1f));
  y = V::fma(y, r * r, r) + V::broadcast(1.0f);
  return y * as<Register>(Bits(as<Bits>(shifted) << 23));
}

}  // namespace
}  // namespace vlapack
