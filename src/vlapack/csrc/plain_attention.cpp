#include "plain_attention.hpp"

#include "buffer.hpp"
#include "dispatch.hpp"
#include "threads.hpp"

namespace vlapack {
namespace {

constexpr int64_t kSerialWork = 1 << 18;  // products below which one thread is enough

}  // namespace

int64_t plain_tasks(const PlainAttention& job) { return job.batches * job.groups * job.queries * job.shared; }

void plain_task(const PlainAttention& job, int64_t task) {
  static thread_local Buffer scores;
  const int64_t head = task % job.shared, token = task / job.shared % job.queries;
  const int64_t group = task / job.shared / job.queries % job.groups;
  const int64_t batch = task / job.shared / job.queries / job.groups;
  const auto place = [&](const Pitches& at) { return batch * at.batch + group * at.group; };
  const auto row = [&](const Pitches& at) { return place(at) + token * at.token + head * at.head; };
  kernels().attend_plain({job.query + row(job.from), job.keys + place(job.key), job.values + place(job.value),
                          job.key.token, job.value.token, job.tokens, job.width,
                          job.state_token && token == 0 ? job.prefix + 1 : job.tokens,
                          job.exists ? job.exists + batch * job.prefix : nullptr, job.prefix,
                          scores.hold<float>(job.tokens + kSlack), job.out + row(job.into)});
}

void attend(const PlainAttention& job, int threads) {
  const int64_t tasks = plain_tasks(job);
  if (tasks * job.tokens * job.width < kSerialWork) threads = 1;
  parallel(tasks, threads, [&](int64_t task) { plain_task(job, task); });
}

}  // namespace vlapack
