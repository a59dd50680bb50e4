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

int64_t head_offset(const LaidOut& to, const Pitches& pitches, int64_t head) {
  return head / to.groups * pitches.batch + head % to.groups * pitches.group;
}

// `keys` of `count` tokens, `pitch` elements from one to the next, become [width / 2][kBlock][2] from `to` on: two tokens
// at a time, so that there are half as many stores.
void lay_out_keys(const uint16_t* keys, int64_t pitch, int64_t count, int64_t width, uint16_t* to) {
  int64_t t = 0;
  for (; t + 1 < count; t += 2, keys += 2 * pitch, to += 4)
    for (int64_t c = 0; c < width; c += 4) {
      uint64_t even, odd;
      std::memcpy(&even, keys + c, 8), std::memcpy(&odd, keys + pitch + c, 8);
      const uint64_t first = (even & 0xffffffffu) | odd << 32, second = even >> 32 | (odd >> 32) << 32;
      std::memcpy(to + c * kBlock, &first, 8), std::memcpy(to + (c + 2) * kBlock, &second, 8);
    }
  for (int64_t c = 0; t < count && c < width; c += 2) std::memcpy(to + c * kBlock, keys + c, 4);
}

// Two tokens become a pair, [padded][2]; zeros stand where the odd one is missing.
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
  const int64_t head = task / blocks(job), block = first_block(job) + task % blocks(job);
  const int64_t begin = std::max(block * kBlock, job.first), padded = to.padded_width();
  const int64_t end = std::min((block + 1) * kBlock, job.first + job.count);
  const uint16_t* key = job.keys + head_offset(to, job.key, head) + (begin - job.first) * job.key.token;
  lay_out_keys(key, job.key.token, end - begin, to.width,
               to.keys + head * to.key_elements() + block * kBlock * to.width + 2 * (begin % kBlock));

  const uint16_t* value = job.values + head_offset(to, job.value, head) + (begin - job.first) * job.value.token;
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
  const int64_t head = task / plan.tiles, tile = task % plan.tiles;
  const int64_t first = tile * rows_of(job) / plan.tiles, last = (tile + 1) * rows_of(job) / plan.tiles;
  const uint16_t* query = job.query + head_offset(to, job.from, head);
  uint16_t* out = job.out + head_offset(to, job.into, head);
  AttentionRows rows = {};
  rows.rows = static_cast<int>(last - first);
  for (int64_t row = first; row < last; ++row) {
    const int64_t token = row / job.shared, head_of_token = row % job.shared;
    rows.query[row - first] = query + token * job.from.token + head_of_token * job.from.head;
    rows.out[row - first] = out + token * job.into.token + head_of_token * job.into.head;
    rows.seen[row - first] = job.state_token && token == 0 ? job.prefix + 1 : job.tokens;
  }
  rows.keys = to.keys + head * to.key_elements();
  rows.values = to.values + head * to.value_elements();
  rows.tokens = job.tokens, rows.width = to.width, rows.padded_width = to.padded_width();
  rows.exists = job.exists ? job.exists + head / to.groups * job.prefix : nullptr;
  rows.prefix = job.prefix;
  rows.scratch = scratch.hold<float>(rows.rows * kBlock * (pieces(to.width, kBlock) + pieces(job.tokens, kBlock)));
  plan.kernels->attend(rows);
}

void attend(LayingOut source, Attention job, int threads) {
  static thread_local Buffer keys, values;
  LaidOut& to = source.to;
  const double work = 2.0 * static_cast<double>(to.heads() * rows_of(job)) * static_cast<double>(job.tokens * to.width);
  if (work < kSerialWork) threads = 1;
  to.keys = keys.hold<uint16_t>(to.heads() * to.key_elements());
  to.values = values.hold<uint16_t>(to.heads() * to.value_elements());
  job.to = to;
  parallel(lay_out_tasks(source), threads, [&](int64_t task) { lay_out_task(source, task); });
  const AttentionPlan plan = plan_attention(job, threads);
  parallel(plan.tasks, threads, [&](int64_t task) { attend_task(job, plan, task); });
}

}  // namespace vlapack
