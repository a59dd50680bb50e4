// AMX's tile operations in plain C++, so that what is built on them is tested on every machine.
#include "tile_product.hpp"

namespace vlapack {
namespace {

struct Unit {
  struct State {
    alignas(64) uint8_t tiles[8][16][64];
    int rows[8];
  };
  static State& state() {
    static thread_local State all;
    return all;
  }

  static void begin(int height, bool alone) {
    State& all = state();
    std::memset(all.tiles, 0, sizeof(all.tiles));
    for (int t = 0; t < 8; ++t) all.rows[t] = t > 5 || (alone && (t == 2 || t == 3)) ? 16 : height;
  }
  static void end() { std::memset(state().rows, 0, sizeof(State::rows)); }
  template <int N>
  static void zero() {
    std::memset(state().tiles[N], 0, sizeof(state().tiles[N]));
  }
  template <int N>
  static void load(const void* from, int64_t pitch) {
    zero<N>();
    for (int r = 0; r < state().rows[N]; ++r)
      std::memcpy(state().tiles[N][r], static_cast<const char*>(from) + r * pitch, 64);
  }
  template <int N>
  static void store(void* to, int64_t pitch) {
    for (int r = 0; r < state().rows[N]; ++r) std::memcpy(static_cast<char*>(to) + r * pitch, state().tiles[N][r], 64);
  }
  template <int Sums, int Rows, int Weights>
  static void multiply() {
    State& all = state();
    for (int r = 0; r < all.rows[Sums]; ++r)
      for (int n = 0; n < 16; ++n) {
        uint32_t sum;
        std::memcpy(&sum, &all.tiles[Sums][r][4 * n], 4);
        for (int k = 0; k < 64; ++k)
          sum += static_cast<uint32_t>(static_cast<int8_t>(all.tiles[Rows][r][k]) *
                                       all.tiles[Weights][k / 4][4 * n + k % 4]);
        std::memcpy(&all.tiles[Sums][r][4 * n], &sum, 4);
      }
  }

  static void fetch(const void*) {}
  static void fetch_to_write(void*) {}

  template <bool Earlier, bool First, bool Last, class Out>
  static void settle(const Waiting& job, int row) {
    settle_row<Earlier, First, Last, Out>(job, row);
  }

  static uint8_t* weights() {
    static thread_local uint8_t unpacked[kBlockDepths * kDepthBytes];
    return unpacked;
  }
  static int32_t* scratch(bool which) {
    static thread_local int32_t sums[2][2 * kMostHeight * kPanel];
    return sums[which];
  }

  static void unpack4(const uint8_t* from, int64_t steps, uint8_t* to) {
    for (int64_t t = 0; t < steps; ++t, from += 128, to += 128)
      for (int half = 0; half < 2; ++half)
        for (int i = 0; i < 64; ++i) {
          to[half * kHalfBytes + i] = from[64 * half + i] & 15;
          to[half * kHalfBytes + 64 + i] = from[64 * half + i] >> 4;
        }
  }
  static void unpack8(const uint8_t* from, int64_t steps, uint8_t* to) {
    for (int64_t t = 0; t < 2 * steps; ++t, from += 128, to += 64)
      for (int half = 0; half < 2; ++half) std::memcpy(to + half * kHalfBytes, from + 64 * half, 64);
  }
};

int32_t pack(const int8_t* q, int64_t channels, int64_t pitch, int8_t* packed) {
  for (int64_t k = 0; k < channels; k += kDepthChannels, packed += pitch) {
    const int64_t left = channels - k < kDepthChannels ? channels - k : kDepthChannels;
    std::memcpy(packed, q + k, static_cast<size_t>(left));
    std::memset(packed + left, 0, static_cast<size_t>(kDepthChannels - left));
  }
  int32_t total = 0;
  for (int64_t k = 0; k < channels; ++k) total += q[k];
  return total;
}

}  // namespace

const MatrixUnit kAmxEmulated = {1, pack, multiply<Unit>};

}  // namespace vlapack
