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

const int32_t* permutation(const Activation& job, Buffer& buffer) {
  switch (job.permutation ? job.permutation_bytes : 0) {
    case 2: return checked(static_cast<const uint16_t*>(job.permutation), job.channels, buffer);
    case 4: return checked(static_cast<const int32_t*>(job.permutation), job.channels, buffer);
    case 8: return checked(static_cast<const int64_t*>(job.permutation), job.channels, buffer);
  }
  return nullptr;
}

}  // namespace

void activate(const Activation& job) {
  static thread_local Buffer pre_buffer, blocks_buffer, order_buffer;
  const Kernels& isa = kernels();
  Steps steps;
  steps.smooth = job.smooth;
  steps.pre_rotation = pad(job.pre_rotation, isa.lanes, pre_buffer);
  steps.permutation = permutation(job, order_buffer);
  steps.rotation = pad(job.rotation, isa.lanes, blocks_buffer);

  const int threads = job.rows * job.channels < kSerialWork ? 1 : job.threads;
  const int64_t share = (job.rows + threads - 1) / threads;
  const int64_t height = std::clamp<int64_t>(share, 1, isa.activation_rows);
  const size_t element = job.kind == Float::f32 ? 4 : 2;
  parallel((job.rows + height - 1) / height, threads, [&](int64_t tile) {
    static thread_local Buffer scratch;
    const int64_t first = tile * height;
    Rows part;
    part.x = static_cast<const char*>(job.x) + static_cast<size_t>(first * job.pitch) * element;
    part.kind = job.kind;
    part.pitch = job.pitch;
    part.rows = static_cast<int>(std::min(height, job.rows - first));
    part.channels = job.channels;
    part.scale = job.scale;
    part.largest = static_cast<float>(job.largest);
    part.q = job.q ? job.q + first * job.channels : nullptr;
    part.s = job.s ? job.s + first : nullptr;
    part.out = job.out ? job.out + first * job.channels : nullptr;
    part.scratch = scratch.hold<float>(2 * height * (job.channels + kSlack));
    isa.activation(steps, part);
  });
}

}  // namespace vlapack
