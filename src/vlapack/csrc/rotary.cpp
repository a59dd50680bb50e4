#include "rotary.hpp"

#include <cstring>

#include "dispatch.hpp"
#include "threads.hpp"

namespace vlapack {
namespace {

constexpr int64_t kSerialWork = 1 << 15;  // elements below which one thread is enough

void* place(void* first, Float kind, int64_t elements) { return const_cast<void*>(row_of(first, kind, elements)); }

}  // namespace

void turn_task(const Turning& job, int64_t row) {
  const Kernels& isa = kernels();
  const int64_t sample = row / job.tokens, token = row % job.tokens, turned = job.heads + job.groups;
  const void* cos = row_of(job.cos, job.kind, sample * job.table_pitch + token * job.width);
  const void* sin = row_of(job.sin, job.kind, sample * job.table_pitch + token * job.width);
  const size_t bytes = static_cast<size_t>(job.width) * (job.kind == Float::f32 ? 4 : 2);
  for (int64_t head = 0; head < turned + job.groups; ++head) {
    const void* x = head < job.here ? row_of(job.product, job.kind, row * job.pitch + head * job.width)
                                    : row_of(job.rest, job.kind, row * job.rest_pitch + (head - job.here) * job.width);
    if (head < job.heads) {
      isa.turn(job.kind, x, cos, sin, job.width, place(job.queries, job.kind, (row * job.heads + head) * job.width));
      continue;
    }
    const int64_t group = (head - job.heads) % job.groups;
    const int64_t there = ((sample * job.groups + group) * job.capacity + job.first + token) * job.width;
    if (head < turned)
      isa.turn(job.kind, x, cos, sin, job.width, place(job.keys, job.kind, there));
    else
      std::memcpy(place(job.values, job.kind, there), x, bytes);
  }
}

void turn(const Turning& job, int threads) {
  const int64_t rows = job.batch * job.tokens;
  if (rows * (job.heads + 2 * job.groups) * job.width < kSerialWork) threads = 1;
  parallel(rows, threads, [&](int64_t row) { turn_task(job, row); });
}

}  // namespace vlapack
