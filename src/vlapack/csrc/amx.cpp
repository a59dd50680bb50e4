// AMX: `tdpbsud` multiplies a tile of 16 rows by 64 signed bytes by one of 64 unsigned bytes by 16 outputs, and adds
// each four neighbours to one of 16 x 16 sums: 16384 products in 16 cycles, 16 times what `vpdpbusd` does.
//
// Signed by unsigned, for the layout keeps weights as w + 8 or w + 128 (kernels.hpp), which 8-bit weights as signed
// bytes would not survive; and the activations are the first factor, for the layout has four channels of 16 outputs
// side by side, which is what the second factor must be.
//
// Assembly in place of the compiler's intrinsics: those of GCC 11 and 12 do not say that they read memory, so that
// stores into the unpacked weights may be moved behind the load of the tile.
#include <immintrin.h>

#include "tile_product.hpp"

namespace vlapack {
namespace {

constexpr __mmask16 kEvery = 0xffff;  // without a mask, GCC warns of its own header

// To bf16, half to even, as `narrow` in outputs.hpp. `vcvtne2ps2bf16` takes what is below 2^-126 for zero and keeps a
// NaN's sign and bits, so these go another way.
inline __m512i narrow_carefully(__m512 low, __m512 high) {
  alignas(64) float values[32];
  alignas(64) uint16_t narrowed[32];
  _mm512_store_ps(values, low), _mm512_store_ps(values + 16, high);
  for (int i = 0; i < 32; ++i) narrowed[i] = narrow(values[i]);
  return _mm512_load_si512(narrowed);
}

inline __m512i narrow(__m512 low, __m512 high) {
  constexpr int kOdd = 0x01 | 0x20 | 0x80;  // quiet NaN, denormal, signaling NaN
  if (__builtin_expect(_mm512_fpclass_ps_mask(low, kOdd) | _mm512_fpclass_ps_mask(high, kOdd), 0))
    return narrow_carefully(low, high);
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

struct Unit {
  static void begin(int height, bool alone) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t columns[16] = {};  // bytes
      uint8_t rows[16] = {};
    } shape;
    for (int t = 0; t < 8; ++t) {
      shape.columns[t] = 64;
      shape.rows[t] = static_cast<uint8_t>(t > 5 || (alone && (t == 2 || t == 3)) ? 16 : height);
    }
    asm volatile("ldtilecfg %0" : : "m"(shape));
  }
  static void end() { asm volatile("tilerelease"); }
  template <int N>
  static void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(N));
  }
  template <int N>
  static void load(const void* from, int64_t pitch) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(pitch), "i"(N) : "memory");
  }
  template <int N>
  static void store(void* to, int64_t pitch) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(pitch), "i"(N) : "memory");
  }
  template <int Sums, int Rows, int Weights>
  static void multiply() {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(Rows), "i"(Weights));
  }

  static void fetch(const void* from) { _mm_prefetch(static_cast<const char*>(from), _MM_HINT_T1); }
  static void fetch_to_write(void* to) { asm volatile("prefetchw %0" : : "m"(*static_cast<char*>(to))); }

  // As `settle_row`.
  template <bool Earlier, bool First, bool Last, class Out>
  static inline __attribute__((always_inline)) void settle(const Waiting& job, int row) {
    const int32_t* sums = job.sums + row * kPanel;
    float* partial = job.partial + row * kPanel;
    const __m512i start = _mm512_set1_epi32(job.start[row * job.groups]);
    const __m512 s = _mm512_set1_ps(job.s[row]);
    __m512 values[2];
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      __m512i sum = _mm512_add_epi32(_mm512_load_si512(sums + 16 * h), start);
      if (Earlier) sum = _mm512_add_epi32(sum, _mm512_load_si512(job.earlier + row * kPanel + 16 * h));
      values[h] = _mm512_mul_ps(_mm512_maskz_cvtepi32_ps(kEvery, sum), _mm512_load_ps(job.scales + 16 * h));
      if (!First) values[h] = _mm512_add_ps(_mm512_load_ps(partial + 16 * h), values[h]);
      if (!Last)
        _mm512_store_ps(partial + 16 * h, values[h]);
      else
        values[h] = _mm512_add_ps(_mm512_mul_ps(values[h], s), _mm512_load_ps(job.bias + 16 * h));
    }
    if (!Last) return;
    char* out = job.out + row * job.pitch;
    const uint32_t there = ~0u >> (kPanel - job.columns);
    if (sizeof(Out) == 2) return _mm512_mask_storeu_epi16(out, there, narrow(values[0], values[1]));
    _mm512_mask_storeu_ps(out, static_cast<__mmask16>(there), values[0]);
    _mm512_mask_storeu_ps(out + 64, static_cast<__mmask16>(there >> 16), values[1]);
  }

  static uint8_t* weights() {
    alignas(64) static thread_local uint8_t unpacked[kBlockDepths * kDepthBytes];
    return unpacked;
  }
  static int32_t* scratch(bool which) {
    alignas(64) static thread_local int32_t sums[2][2 * kMostHeight * kPanel];
    return sums[which];
  }

  static void unpack4(const uint8_t* from, int64_t steps, uint8_t* to) {
    const __m512i low = _mm512_set1_epi8(15);
    for (int64_t t = 0; t < steps; ++t, from += 128, to += 128) {
      const __m512i left = _mm512_loadu_si512(from), right = _mm512_loadu_si512(from + 64);
      _mm512_store_si512(to, _mm512_and_si512(left, low));
      _mm512_store_si512(to + 64, _mm512_and_si512(_mm512_srli_epi16(left, 4), low));
      _mm512_store_si512(to + kHalfBytes, _mm512_and_si512(right, low));
      _mm512_store_si512(to + kHalfBytes + 64, _mm512_and_si512(_mm512_srli_epi16(right, 4), low));
    }
  }
  static void unpack8(const uint8_t* from, int64_t steps, uint8_t* to) {
    for (int64_t t = 0; t < 2 * steps; ++t, from += 128, to += 64) {
      _mm512_store_si512(to, _mm512_loadu_si512(from));
      _mm512_store_si512(to + kHalfBytes, _mm512_loadu_si512(from + 64));
    }
  }
};

int32_t pack(const int8_t* q, int64_t channels, int64_t pitch, int8_t* packed) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i sums = _mm512_setzero_si512();
  for (int64_t k = 0; k < channels; k += kDepthChannels, packed += pitch) {
    const int64_t left = channels - k;
    const __mmask64 there = left < kDepthChannels ? (__mmask64{1} << left) - 1 : ~__mmask64{0};
    const __m512i values = _mm512_maskz_loadu_epi8(there, q + k);
    sums = _mm512_dpbusd_epi32(sums, ones, values);
    _mm512_storeu_si512(packed, values);
  }
  int32_t lanes[16], total = 0;
  _mm512_storeu_si512(lanes, sums);
  for (const int32_t lane : lanes) total += lane;
  return total;
}

}  // namespace

const MatrixUnit kAmx = {2, pack, multiply<Unit>};

int64_t amx_peak(int64_t rounds) {
  constexpr int64_t kLonger = 8;  // these rounds take 64 cycles, those of the other instruction sets 6 to 8
  rounds = (rounds + kLonger - 1) / kLonger;
  Unit::begin(kMostHeight, false);
  for (int64_t i = 0; i < rounds; ++i) {
    Unit::multiply<0, 4, 6>();
    Unit::multiply<1, 4, 7>();
    Unit::multiply<2, 5, 6>();
    Unit::multiply<3, 5, 7>();
  }
  Unit::end();
  return rounds * 4 * 16 * 16 * 64 * 2;
}

}  // namespace vlapack
