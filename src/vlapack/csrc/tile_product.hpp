// The product on a matrix unit, written once for the unit itself and for its emulation. `T` has the operations on tiles,
// which have numbers, as registers do:
//
//     0 1     sums: two tiles of rows by the two halves of a panel
//     2 3
//     4 5     activations: the two tiles of rows, 64 channels
//     6 7     weights: the two halves of the panel, 64 channels
//
// So a depth of 64 channels is four products for four loads. Where there is one tile of rows, 2 and 3 are weights as
// well. A block of channels, 8 depths, is walked like this, for each panel:
//
//     unpack the block's weights, 16 KB, which stay in the first cache
//     for each two tiles of rows:  multiply, 32 products;  meanwhile settle the results of the two tiles before
//
// The sums of a block are stored and added to those of the blocks before by vectors (tile_results.hpp): a matrix unit
// that loads them waits for memory first.
//
// Internal linkage, as in float_kernels.hpp: compiled with each file's own flags.
#pragma once

#include "tile_results.hpp"

namespace vlapack {
namespace {

constexpr int64_t kHalfBytes = 16 * kDepthChannels;       // a tile of weights
constexpr int64_t kDepthBytes = 2 * kHalfBytes;           // 64 channels of a panel, unpacked
constexpr int64_t kSumsPitch = kPanel * sizeof(int32_t);  // bytes from row to row of sums

// Where a block begins: a group of channels and a depth of it. A block is some depths of one group or some whole groups,
// and ends where the next begins.
struct Block {
  int64_t group, depth;
};

template <class T>
class TileProduct {
 public:
  explicit TileProduct(const TileTask& task)
      : task_(task),
        job_(task.job),
        plan_(task.plan),
        tiles_(task.last_tile - task.first_tile),
        rows_(tiles_ * plan_.height),
        line_(plan_.height * kDepthChannels) {}

  void run() {
    T::begin(static_cast<int>(plan_.height), plan_.tiles == 1);
    for (Block chunk = {0, 0}, next = chunk; chunk.group < plan_.groups; chunk = next)
      for (int64_t panel = task_.first_panel; panel < task_.last_panel; ++panel) {
        next = chunk;
        for (bool more = true; more;) {
          const Block block = next;
          next = after(block);
          more = next.group < plan_.groups && position(next) - position(chunk) < kChunkDepths;
          fetch_later(more ? weights_at(panel, next) : weights_at(panel + 1, chunk),
                      more || panel + 1 < task_.last_panel);
          multiply_block(panel, block, next);
        }
      }
    settle();
    T::end();
  }

 private:
  int64_t position(const Block& block) const { return block.group * plan_.group_depths + block.depth; }
  int64_t depths_of(int64_t group) const { return least(plan_.depths - group * plan_.group_depths, plan_.group_depths); }
  static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

  Block after(const Block& block) const {
    if (plan_.group_depths <= kBlockDepths)
      return {least(block.group + kBlockDepths / plan_.group_depths, plan_.groups), 0};
    const int64_t depth = block.depth + kBlockDepths;
    return depth < depths_of(block.group) ? Block{block.group, depth} : Block{block.group + 1, 0};
  }

  // The depths of a group that a block has.
  struct Part {
    int64_t first, count;
  };
  Part part(const Block& block, const Block& next, int64_t group) const {
    const int64_t first = group == block.group ? block.depth : 0;
    return {first, (group == next.group ? next.depth : depths_of(group)) - first};
  }
  static int64_t groups_end(const Block& next) { return next.group + (next.depth ? 1 : 0); }

  const uint8_t* weights_at(int64_t panel, const Block& block) const {
    const int64_t step = block.group * plan_.group_steps + block.depth * kDepthSteps;
    return job_.weight + (panel * plan_.steps + step) * step_bytes(job_.bits);
  }

  // What the last depth of a group lacks stays what it was: it is multiplied by zeros.
  void unpack(int64_t panel, const Block& block, const Block& next) const {
    uint8_t* to = T::weights();
    for (int64_t g = block.group; g < groups_end(next); ++g) {
      const Part depths = part(block, next, g);
      const uint8_t* from = weights_at(panel, {g, depths.first});
      int64_t left = least(plan_.group_steps, plan_.steps - g * plan_.group_steps) - depths.first * kDepthSteps;
      for (int64_t d = 0; d < depths.count; ++d, left -= kDepthSteps, to += kDepthBytes) {
        const int64_t steps = least(left, kDepthSteps);
        job_.bits == 4 ? T::unpack4(from, steps, to) : T::unpack8(from, steps, to);
        from += steps * step_bytes(job_.bits);
      }
    }
  }

  void multiply_block(int64_t panel, const Block& block, const Block& next) {
    unpack(panel, block, next);
    const int64_t pitch = plan_.depths * line_, kept = plan_.depths > kChunkDepths ? panel - task_.first_panel : 0;
    const int8_t* top = task_.activations + position(block) * line_;
    for (int64_t tile = 0; tile < tiles_; tile += 2, top += 2 * pitch) {
      const int64_t place = (kept * rows_ + tile * plan_.height) * kPanel;
      const int8_t* a = top;
      const uint8_t* b = T::weights();
      write_later(panel, tile, next.group == plan_.groups);
      for (int64_t g = block.group; g < groups_end(next); ++g) {
        const int64_t depths = part(block, next, g).count;
        const bool begins = g > block.group || block.depth == 0, ends = g < next.group;
        int32_t* sums = begins && !ends ? task_.sums + place : T::scratch(turn_ = !turn_);
        if (plan_.tiles == 1) {
          settle();
          one(a, b, depths, sums);
        } else {
          with_kind<T>(waiting_, job_.kind, [&](auto kind) { two(a, a + pitch, b, depths, sums, kind); });
          waiting_.rows = 0;
        }
        a += depths * line_, b += depths * kDepthBytes;
        if (sums != task_.sums + place) wait(panel, g, tile, place, sums, begins, ends);
      }
    }
  }

  template <class Kind>
  void two(const int8_t* upper, const int8_t* lower, const uint8_t* b, int64_t depths, int32_t* sums, Kind) {
    const Waiting job = waiting_;  // local: what nothing else can write stays in registers
    const Ahead ahead = ahead_;
    const int64_t line = line_;
    const int share = static_cast<int>((2 * plan_.height + depths - 1) / depths);
    const uint8_t* soon = ahead.weights;
    int row = 0, written = 0;
    T::template zero<0>(), T::template zero<1>(), T::template zero<2>(), T::template zero<3>();
    for (int64_t d = 0; d < depths; ++d, upper += line, lower += line, b += kDepthBytes) {
      T::template load<4>(upper, kDepthChannels);
      T::template load<6>(b, 64);
      T::template load<5>(lower, kDepthChannels);
      T::template load<7>(b + kHalfBytes, 64);
      T::template multiply<0, 4, 6>();
      T::template multiply<2, 5, 6>();
      T::template multiply<1, 4, 7>();
      T::template multiply<3, 5, 7>();
      for (int64_t i = 0; i < ahead.share; ++i, soon += 64) T::fetch(soon);
      for (int i = 0; i < share && written < ahead.rows; ++i, ++written)
        T::fetch_to_write(ahead.out + written * ahead.pitch);
      for (int i = 0; i < share && row < job.rows; ++i, ++row) Kind::row(job, row);
    }
    ahead_.weights = soon;
    int32_t* below = sums + plan_.height * kPanel;
    T::template store<0>(sums, kSumsPitch), T::template store<2>(below, kSumsPitch);
    T::template store<1>(sums + 16, kSumsPitch), T::template store<3>(below + 16, kSumsPitch);
  }

  void one(const int8_t* a, const uint8_t* b, int64_t depths, int32_t* sums) {
    T::template zero<0>(), T::template zero<1>();
    for (int64_t d = 0; d < depths; ++d, a += line_, b += kDepthBytes) {
      if (d % 2 == 0) {
        T::template load<4>(a, kDepthChannels);
        T::template load<6>(b, 64), T::template load<7>(b + kHalfBytes, 64);
        T::template multiply<0, 4, 6>(), T::template multiply<1, 4, 7>();
      } else {
        T::template load<5>(a, kDepthChannels);
        T::template load<2>(b, 64), T::template load<3>(b + kHalfBytes, 64);
        T::template multiply<0, 5, 2>(), T::template multiply<1, 5, 3>();
      }
      for (int64_t i = 0; i < ahead_.share; ++i, ahead_.weights += 64) T::fetch(ahead_.weights);
    }
    T::template store<0>(sums, kSumsPitch), T::template store<1>(sums + 16, kSumsPitch);
  }

  void wait(int64_t panel, int64_t group, int64_t tile, int64_t place, const int32_t* sums, bool begins, bool ends) {
    const int64_t top = (task_.first_tile + tile) * plan_.height, output = panel * kPanel;
    const int64_t local = panel - task_.first_panel;
    waiting_.sums = sums;
    waiting_.earlier = begins ? nullptr : task_.sums + place;
    waiting_.start = task_.start + tile * plan_.height * plan_.groups + group;
    waiting_.scales = task_.scales + (local * plan_.groups + group) * kPanel;
    waiting_.partial = task_.partial + place;
    waiting_.s = job_.s + top;
    waiting_.bias = task_.bias + local * kPanel;
    waiting_.out = static_cast<char*>(job_.out) + (top * job_.pitch + output) * out_bytes();
    waiting_.groups = plan_.groups;
    waiting_.pitch = job_.pitch * out_bytes();
    waiting_.columns = static_cast<int>(least(job_.outputs - output, kPanel));
    waiting_.rows = rows_from(top);
    waiting_.group_ends = ends;
    waiting_.first = group == 0, waiting_.last = group + 1 == plan_.groups;
  }

  void settle() {
    with_kind<T>(waiting_, job_.kind, [&](auto kind) {
      for (int r = 0; r < waiting_.rows; ++r) decltype(kind)::row(waiting_, r);
    });
    waiting_.rows = 0;
  }

  // Rows that there are of two tiles (or one).
  int rows_from(int64_t top) const {
    const int64_t left = job_.rows - top, most = (plan_.tiles == 1 ? 1 : 2) * plan_.height;
    return static_cast<int>(left < 0 ? 0 : least(left, most));
  }
  int64_t out_bytes() const { return job_.kind == Float::f32 ? 4 : 2; }

  // The next block's weights, and the lines of memory that the results of these rows go to, are fetched bit by bit while
  // tiles are multiplied. All at once they would wait for each other.
  struct Ahead {
    const uint8_t* weights;
    int64_t share;  // lines of weights in a depth
    char* out;
    int64_t pitch;
    int rows;
  };
  void fetch_later(const uint8_t* weights, bool any) {
    const int64_t lines = kBlockDepths * kDepthSteps * step_bytes(job_.bits) / 64;
    const int64_t turns = (tiles_ + 1) / 2 * kBlockDepths;
    ahead_.weights = weights;
    ahead_.share = any ? (lines + turns - 1) / turns : 0;
  }
  void write_later(int64_t panel, int64_t tile, bool last) {
    const int64_t top = (task_.first_tile + tile) * plan_.height;
    ahead_.pitch = job_.pitch * out_bytes();
    ahead_.out = static_cast<char*>(job_.out) + (top * job_.pitch + panel * kPanel) * out_bytes();
    ahead_.rows = last ? rows_from(top) : 0;
  }

  const TileTask& task_;
  const Linear& job_;
  const Plan& plan_;
  const int64_t tiles_, rows_, line_;
  Waiting waiting_ = {};
  Ahead ahead_ = {};
  bool turn_ = false;
};

template <class T>
void multiply(const TileTask& task) {
  TileProduct<T>(task).run();
}

}  // namespace
}  // namespace vlapack
