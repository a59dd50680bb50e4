// From a pack's rows to the prepared layout of kernels.hpp, and back.
#pragma once

#include <cstdint>

namespace vlapack {

int64_t prepared_bytes(int bits, int64_t outputs, int64_t inputs);

// `stored` is int32 words [outputs][ceil(inputs / 8)] of eight nibbles w + 8, or int8 [outputs][inputs].
void prepare(int bits, int64_t outputs, int64_t inputs, const void* stored, uint8_t* prepared, int threads);
void restore(int bits, int64_t outputs, int64_t inputs, const uint8_t* prepared, void* stored);

}  // namespace vlapack
