#include "finite.hpp"

#include <algorithm>

namespace vlapack {
namespace {

// One block has no branch inside, so that the compiler takes 16 bytes or more at a time.
constexpr int64_t kBlock = 1 << 12;

template <class T>
bool finite(const T* floats, int64_t count, T exponent) {
  for (int64_t start = 0; start < count; start += kBlock) {
    const int64_t stop = std::min(count, start + kBlock);
    T found = 0;
    for (int64_t i = start; i < stop; ++i) found |= static_cast<T>((floats[i] & exponent) == exponent);
    if (found) return false;
  }
  return true;
}

}  // namespace

bool all_finite(const void* floats, int64_t count, int bytes, uint64_t exponent) {
  if (bytes == 2) return finite(static_cast<const uint16_t*>(floats), count, static_cast<uint16_t>(exponent));
  if (bytes == 4) return finite(static_cast<const uint32_t*>(floats), count, static_cast<uint32_t>(exponent));
  return finite(static_cast<const uint64_t*>(floats), count, exponent);
}

}  // namespace vlapack
