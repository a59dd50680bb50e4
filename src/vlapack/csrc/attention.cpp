// Attention: how the work is cut, and how keys and values are laid out. The arithmetic is in attention_kernels.hpp.
#include "attention.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "buffer.hpp"
#include "dispatch.hpp"
#include "panels.hpp"
#include "threads.hpp"

namespace vlapack {
namespace {

constexpr int64_t kTasksPerThread = 8;   // from here on it does not matter whether they come out even
constexpr int64_t kFewestRows = 2;       // of a tile: every tile reads all keys, however few its rows are
constexpr double kSerialWork = 1 << 21;  // products, 20 us of one thread: waking another costs more than it saves

int64_t first_block(const LayingOut& job) { return job.first / kBlock; }

int64_t blocks(const LayingOut& job) {
  return job.count ? pieces(job.first + job.count, kBlock) - first_block(job) : 0;
}

const uint16_t* place(const uint16_t* from, const Pitches& pitches, int64_t batch, int64_t group, int64_t token) {
  return from + batch * pitches.batch + group * pitches.group + token * pitches.token;
}

// `keys` of `count` tokens, `pitch` elements from one to the next, become [width / 2][kBlock][2] from `to` on.
void lay_out_keys(const uint16_t* keys, int64_t pitch, int64_t count, int64_t width, uint16_t* to) {
  for (int64_t c = 0; c < width; c += 2)
    for (int64_t t = 0; t < count; ++t) std::memcpy(to + (c * kBlock + 2 * t), keys + t * pitch + c, 4);
}

// One or both halves of a pair; null: zeros.
void lay_out_pair(const uint16_t* __restrict even, const uint16_t* __restrict odd, int64_t width, int64_t padded,
                  uint16_t* __restrict to) {
  for (int64_t c = 0; c < width; ++c) to[2 * c] = even[c], to[2 * c + 1] = odd ? odd[c] : uint16_t{0};
  for (int64_t c = width; c < padded; ++c) to[2 * c] = to[2 * c + 1] = 0;
}

int64_t rows_of(const Attention& job) { return job.queries * job.shared; }

}  // namespace

int64_t lay_out_tasks(const LayingOut& job) { return job.to.heads() * blocks(job); }

// One block of tokens of one head.
void lay_out_task(const LayingOut& job, int64_t task) {
  const LaidOut& to = job.to;
  const int64_t head = task / blocks(job), batch = head / to.groups, group = head % to.groups;
  const int64_t block = first_block(job) + task % blocks(job);
  const int64_t begin = std::max(block * kBlock, job.first), padded = to.padded_width();
  const int64_t end = std::min((block + 1) * kBlock, job.first + job.count);
  lay_out_keys(place(job.keys, job.key, batch, group, begin - job.first), job.key.token, end - begin, to.width,
               to.keys + head * to.key_elements() + block * kBlock * to.width + 2 * (begin % kBlock));

  const uint16_t* value = place(job.values, job.value, batch, group, begin - job.first);
  uint16_t* pair = to.values + head * to.value_elements() + begin / 2 * 2 * padded;
  int64_t t = begin;
  if (t % 2) {  // the even half is there already
    for (int64_t c = 0; c < to.width; ++c) pair[2 * c + 1] = value[c];
    ++t, value += job.value.token, pair += 2 * padded;
  }
  for (; t < end; t += 2, value += 2 * job.value.token, pair += 2 * padded)
    lay_out_pair(value, t + 1 < end ? value + job.value.token : nullptr, to.width, padded, pair);
}

AttentionPlan plan_attention(const Attention& job, int threads) {
  const int64_t heads = job.to.heads(), rows = rows_of(job);
  const AttentionKernels* isa = kernels().attention;
  const int64_t fewest = pieces(rows, isa->rows);
  if (heads * fewest >= kTasksPerThread * threads) return {fewest, heads * fewest, isa};
  // As many tasks for every thread, if that leaves enough rows in each
  const int64_t even = threads / std::gcd<int64_t>(heads, threads);
  const int64_t tiles = std::max(fewest, std::min(pieces(fewest, even) * even, rows / kFewestRows));
  return {tiles, heads * tiles, isa};
}

void attend_task(const Attention& job, const AttentionPlan& plan, int64_t task) {
  static thread_local Buffer scratch;
  const LaidOut& to = job.to;
  const int64_t head = task / plan.tiles, tile = task % plan.tiles, batch = head / to.groups, group = head % to.groups;
  const int64_t first = tile * rows_of(job) / plan.tiles, last = (tile + 1) * rows_of(job) / plan.tiles;
  AttentionRows rows = {};
  rows.rows = static_cast<int>(last - first);
  for (int64_t row = first; row < last; ++row) {
    const int64_t token = row / job.shared, head_of_token = row % job.shared;
    const auto offset = [&](const Pitches& pitches) {
      return batch * pitches.batch + group * pitches.group + token * pitches.token + head_of_token * pitches.head;
    };
    rows.query[row - first] = job.query + offset(job.from);
    rows.out[row - first] = job.out + offset(job.into);
    rows.seen[row - first] = job.state_token && token == 0 ? job.prefix + 1 : job.tokens;
  }
  rows.keys = to.keys + head * to.key_elements();
  rows.values = to.values + head * to.value_elements();
  rows.tokens = job.tokens, rows.width = to.width, rows.padded_width = to.padded_width();
  rows.exists = job.exists ? job.exists + batch * job.prefix : nullptr;
  rows.prefix = job.prefix;
  rows.scratch = scratch.hold<float>(rows.rows * kBlock * (pieces(to.width, kBlock) + pieces(job.tokens, kBlock)));
  plan.kernels->attend(rows);
}

void attend(LayingOut source, Attention job, int threads) {
  static thread_local Buffer keys, values;
  LaidOut& to = source.to;
  to.keys = keys.hold<uint16_t>(to.heads() * to.key_elements());
  to.values = values.hold<uint16_t>(to.heads() * to.value_elements());
  job.to = to;
  const double work = 2.0 * static_cast<double>(to.heads() * rows_of(job)) * static_cast<double>(job.tokens * to.width);
  if (work < kSerialWork) threads = 1;
  parallel(lay_out_tasks(source), threads, [&](int64_t task) { lay_out_task(source, task); });
  const AttentionPlan plan = plan_attention(job, threads);
  parallel(plan.tasks, threads, [&](int64_t task) { attend_task(job, plan, task); });
}

}  // namespace vlapack
