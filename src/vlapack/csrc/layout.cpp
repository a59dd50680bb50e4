#include "layout.hpp"

#include <cstring>

#include "kernels.hpp"
#include "threads.hpp"

namespace vlapack {
namespace {

int64_t panels(int64_t outputs) { return (outputs + kPanel - 1) / kPanel; }
int64_t steps(int64_t inputs) { return (inputs + kDepth - 1) / kDepth; }

// Four nibbles of the low half of a word, one per byte: 0x4321 becomes 0x04030201. And back.
uint32_t spread(uint32_t half) {
  half = (half | half << 8) & 0x00ff00ffu;
  return (half | half << 4) & 0x0f0f0f0fu;
}
uint32_t gather(uint32_t bytes) {
  bytes = (bytes | bytes >> 4) & 0x00ff00ffu;
  return (bytes | bytes >> 8) & 0x0000ffffu;
}

// One row of a panel. A word of the pack holds channels 0-7, least significant nibble first, as w + 8. Its low half
// becomes the low nibbles of four bytes, its high half the high ones: that is this row's word of the step. The next
// step is 128 bytes further.
void prepare_row4(const uint32_t* words, int64_t count, uint8_t* target) {
  for (int64_t t = 0; t < count; ++t, target += kPanel * 4) {
    const uint32_t bytes = spread(words[t] & 0xffffu) | spread(words[t] >> 16) << 4;
    std::memcpy(target, &bytes, 4);
  }
}

// XOR with 0x80 adds 128: int8 becomes unsigned.
void prepare_row8(const int8_t* row, int64_t inputs, uint8_t* target) {
  for (int64_t k = 0; k < inputs; ++k)
    target[k / 4 * kPanel * 4 + k % 4] = static_cast<uint8_t>(row[k] ^ 0x80);
}

}  // namespace

int64_t prepared_bytes(int bits, int64_t outputs, int64_t inputs) {
  return panels(outputs) * steps(inputs) * step_bytes(bits);
}

void prepare(int bits, int64_t outputs, int64_t inputs, const void* stored, uint8_t* prepared, int threads) {
  const int64_t panel = steps(inputs) * step_bytes(bits);
  parallel(panels(outputs), threads, [&](int64_t p) {
    uint8_t* target = prepared + p * panel;
    // Rows and channels that do not exist are zero bytes. Their products are with zero activations, or are never
    // stored.
    std::memset(target, 0, static_cast<size_t>(panel));
    for (int64_t n = p * kPanel; n < outputs && n < (p + 1) * kPanel; ++n, target += 4) {
      if (bits == 4)
        prepare_row4(static_cast<const uint32_t*>(stored) + n * steps(inputs), steps(inputs), target);
      else
        prepare_row8(static_cast<const int8_t*>(stored) + n * inputs, inputs, target);
    }
  });
}

void restore(int bits, int64_t outputs, int64_t inputs, const uint8_t* prepared, void* stored) {
  for (int64_t n = 0; n < outputs; ++n) {
    const uint8_t* source = prepared + n / kPanel * steps(inputs) * step_bytes(bits) + n % kPanel * 4;
    if (bits == 4) {
      uint32_t* words = static_cast<uint32_t*>(stored) + n * steps(inputs);
      for (int64_t t = 0; t < steps(inputs); ++t, source += kPanel * 4) {
        uint32_t bytes;
        std::memcpy(&bytes, source, 4);
        words[t] = gather(bytes & 0x0f0f0f0fu) | gather(bytes >> 4 & 0x0f0f0f0fu) << 16;
      }
    } else {
      int8_t* row = static_cast<int8_t*>(stored) + n * inputs;
      for (int64_t k = 0; k < inputs; ++k) row[k] = static_cast<int8_t>(source[k / 4 * kPanel * 4 + k % 4] ^ 0x80);
    }
  }
}

}  // namespace vlapack
