// Finds NaN and infinity in weights.
#pragma once

#include <cstdint>

namespace vlapack {

// Whether no float of `count` has an exponent of ones only: those are NaN and infinity. `bytes` is the width of a float,
// 2, 4 or 8, and `exponent` the mask of its exponent's bits. Memory is read once, at its own speed.
bool all_finite(const void* floats, int64_t count, int bytes, uint64_t exponent);

}  // namespace vlapack
