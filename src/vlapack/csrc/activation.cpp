#include "activation.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "buffer.hpp"
#include "dispatch.hpp"
#include "threads.hpp"

namespace vlapack {
namespace {

constexpr int64_t kSerialWork = 1 << 15;  // elements below which one thread is enough

// The number that Sylvester's matrix is multiplied by, entry (0, 0), if that is what the block is; else 0. Its row i is
// row i without its lowest bit times the row of that bit alone.
float hadamard_factor(const StoredBlocks& stored) {
  using Bits __attribute__((may_alias)) = uint32_t;
  const int64_t size = stored.size;
  if (stored.count != 1 || (size & (size - 1))) return 0;
  const Bits* entries = reinterpret_cast<const Bits*>(stored.data);
  const Bits factor = entries[0], negative = factor ^ 0x80000000u;
  for (int64_t i = 0; i < size; ++i) {
    const int64_t bit = i & -i;
    const Bits *row = entries + i * size, *rest = entries + (i - bit) * size, *one = entries + bit * size;
    Bits wrong = 0;
    for (int64_t j = 0; j < size; ++j)
      wrong |= row[j] ^ (i == bit ? (j & bit ? negative : factor) : rest[j] ^ one[j] ^ factor);
    if (wrong) return 0;
  }
  return stored.data[0];
}

// As they are, if whole vectors fit; else a copy with zeros behind each row.
Blocks pad(const StoredBlocks& stored, int lanes, Buffer& buffer) {
  if (!stored.data) return {};
  const int64_t padded = (stored.size + lanes - 1) / lanes * lanes;
  const float factor = padded == stored.size ? hadamard_factor(stored) : 0;
  if (factor != 0) return {stored.data, 1, stored.size, padded, factor};
  if (padded == stored.size && !stored.transposed) return {stored.data, stored.count, stored.size, padded, 0};
  const int64_t size = stored.size;
  float* copy = buffer.hold<float>(stored.count * size * padded);
  for (int64_t b = 0; b < stored.count; ++b)
    for (int64_t i = 0; i < size; ++i) {
      float* row = copy + (b * size + i) * padded;
      const float* block = stored.data + b * size * size;
      for (int64_t j = 0; j < size; ++j) row[j] = stored.transposed ? block[j * size + i] : block[i * size + j];
      std::memset(row + size, 0, static_cast<size_t>(padded - size) * sizeof(float));
    }
  return {copy, stored.count, size, padded, 0};
}

template <class T>
const int32_t* checked(const T* positions, int64_t channels, Buffer& buffer) {
  int32_t* order = buffer.hold<int32_t>(channels);
  for (int64_t k = 0; k < channels; ++k) {
    const int64_t channel = static_cast<int64_t>(positions[k]);
    if (channel < 0 || channel >= channels)
      throw std::invalid_argument("permutation[" + std::to_string(k) + "] is " + std::to_string(channel) +
                                  ": it must be from 0 to " + std::to_string(channels - 1));
    order[k] = static_cast<int32_t>(channel);
  }
  return order;
}

const int32_t* permutation(const StoredSteps& stored, int64_t channels, Buffer& buffer) {
  switch (stored.permutation ? stored.permutation_bytes : 0) {
    case 2: return checked(static_cast<const uint16_t*>(stored.permutation), channels, buffer);
    case 4: return checked(static_cast<const int32_t*>(stored.permutation), channels, buffer);
    case 8: return checked(static_cast<const int64_t*>(stored.permutation), channels, buffer);
  }
  return nullptr;
}

}  // namespace

const Steps& PreparedSteps::prepare(const StoredSteps& stored, int64_t channels) {
  const int lanes = kernels().lanes;
  steps_.smooth = stored.smooth;
  steps_.pre_rotation = pad(stored.pre_rotation, lanes, pre_rotation_);
  steps_.permutation = permutation(stored, channels, permutation_);
  steps_.rotation = pad(stored.rotation, lanes, rotation_);
  return steps_;
}

int64_t rows_of_task(int64_t rows, int threads) {
  return std::clamp<int64_t>((rows + threads - 1) / threads, 1, kernels().activation_rows);
}

void activate_task(const Steps& steps, const Rows& all, int64_t height, int64_t task) {
  static thread_local Buffer scratch;
  Rows part = some(all, task * height, std::min(height, all.rows - task * height));
  part.scratch = scratch.hold<float>(2 * height * (all.channels + kSlack));
  kernels().activation(steps, part);
}

void activate(const StoredSteps& stored, const Rows& all, int threads) {
  static thread_local PreparedSteps prepared;
  const Steps& steps = prepared.prepare(stored, all.channels);
  if (all.rows * all.channels < kSerialWork) threads = 1;
  const int64_t height = rows_of_task(all.rows, threads);
  parallel((all.rows + height - 1) / height, threads,
           [&](int64_t task) { activate_task(steps, all, height, task); });
}

}  // namespace vlapack
