// What a row of an activation is before its steps: itself, GELU of a product, or the norm of the residual stream. So what
// stands between two products goes through memory once. Internal linkage, as in float_kernels.hpp, which has `V`.
//
// Values round to the stream's dtype wherever plain torch would store a result of it (ops/fused_reference.py).
#pragma once

#include <cmath>

#include "exponential.hpp"
#include "kernels.hpp"
#include "outputs.hpp"

namespace vlapack {
namespace {

// GELU by its tanh approximation, x (1 + tanh u) / 2 = x / (1 + e^-2u) with u = sqrt(2 / pi) (x + 0.044715 x^3); where u
// is negative, both are times e^2u, so that the power never overflows. Times `up`, if there is one.
template <class V, class T>
void gelu_row(const T* __restrict gate, const T* __restrict up, int64_t channels, float* __restrict y) {
  constexpr int64_t kPiece = 512;  // in the first cache from pass to pass
  constexpr float kTwice = 2 * 0.797884561f;
  float power[kPiece] = {};
  const typename V::Register zero = V::broadcast(0.0f);
  for (int64_t first = 0; first < channels; first += kPiece, gate += kPiece, y += kPiece) {
    const int64_t count = channels - first < kPiece ? channels - first : kPiece;
    for (int64_t k = 0; k < count; ++k) {
      const float x = widen(gate[k]);
      power[k] = kTwice * (x + 0.044715f * x * x * x);
    }
    for (int64_t k = 0; k < count; k += V::kLanes) {
      const typename V::Register u = V::load(power + k);
      V::store(power + k, exponential<V>(zero - V::larger(zero - u, u)));
    }
    for (int64_t k = 0; k < count; ++k) {
      const float x = widen(gate[k]);
      y[k] = stored<T>((x > 0.0f ? x : x * power[k]) / (1.0f + power[k]));
    }
    if (!up) continue;
    for (int64_t k = 0; k < count; ++k) y[k] = stored<T>(y[k] * widen(up[k]));
    up += kPiece;
  }
}

// The stream's row, in fp32; with an update it is moved on first, and stored.
template <class T>
void stream_row(const T* __restrict x, const T* __restrict update, const float* __restrict gate, int64_t channels,
                T* __restrict stream, float* __restrict y) {
  if (!update) {
    for (int64_t k = 0; k < channels; ++k) y[k] = widen(x[k]);
    return;
  }
  if (gate)
    for (int64_t k = 0; k < channels; ++k) y[k] = widen(x[k]) + widen(update[k]) * stored<T>(gate[k]);
  else
    for (int64_t k = 0; k < channels; ++k) y[k] = widen(x[k]) + widen(update[k]);
  for (int64_t k = 0; k < channels; ++k) {
    stream[k] = rounded<T>(y[k]);
    y[k] = widen(stream[k]);
  }
}

// The sum of (y - middle)^2; without `Squared` the sum of y.
template <class V, bool Squared>
float total(const float* y, int64_t channels, float middle) {
  constexpr int kSums = 4, kLanes = V::kLanes;
  typename V::Register sums[kSums];
  for (auto& sum : sums) sum = V::broadcast(0.0f);
  const typename V::Register centre = V::broadcast(middle);
  int64_t k = 0;
  for (; k + kSums * kLanes <= channels; k += kSums * kLanes)
    for (int i = 0; i < kSums; ++i) {
      const typename V::Register value = V::load(y + k + i * kLanes) - centre;
      sums[i] = Squared ? V::fma(value, value, sums[i]) : sums[i] + value;
    }
  float lanes[kLanes];
  V::store(lanes, (sums[0] + sums[1]) + (sums[2] + sums[3]));
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  for (; k < channels; ++k) {
    const float value = y[k] - middle;
    sum += Squared ? value * value : value;
  }
  return sum;
}

template <class V, class T>
void norm_row(const Norm& norm, const float* __restrict weight, const float* __restrict shift, int64_t channels,
              float* __restrict y) {
  const float count = static_cast<float>(channels);
  const float mean = norm.kind == Norm::layer ? total<V, false>(y, channels, 0.0f) / count : 0.0f;
  const float factor = 1.0f / std::sqrt(total<V, true>(y, channels, mean) / count + norm.eps);
  switch (norm.kind) {
    case Norm::rms:
      for (int64_t k = 0; k < channels; ++k) y[k] = stored<T>(y[k] * factor * (1.0f + weight[k]));
      return;
    case Norm::adaptive:
      for (int64_t k = 0; k < channels; ++k) y[k] = stored<T>(shift[k] + y[k] * factor * weight[k]);
      return;
    case Norm::layer:
      if (shift)
        for (int64_t k = 0; k < channels; ++k) y[k] = stored<T>((y[k] - mean) * factor * weight[k] + shift[k]);
      else
        for (int64_t k = 0; k < channels; ++k) y[k] = stored<T>((y[k] - mean) * factor * weight[k]);
  }
}

template <class V, class T>
void begin_typed(const Rows& job, int r, float* y) {
  const T* x = static_cast<const T*>(job.x) + r * job.pitch;
  const T* other = job.other ? static_cast<const T*>(job.other) + r * job.other_pitch : nullptr;
  if (job.gelu) return gelu_row<V>(x, other, job.channels, y);
  if (!job.norm) return stream_row<T>(x, nullptr, nullptr, job.channels, nullptr, y);
  const Norm& norm = *job.norm;
  const int64_t sample = (job.first + r) / norm.tokens;
  const auto of_sample = [&](const PerSample& values) {
    return values.data ? values.data + sample * values.pitch : nullptr;
  };
  T* stream = other ? static_cast<T*>(norm.stream) + (job.first + r) * job.channels : nullptr;
  stream_row(x, other, of_sample(norm.gate), job.channels, stream, y);
  norm_row<V, T>(norm, of_sample(norm.weight), of_sample(norm.shift), job.channels, y);
}

template <class V>
void begin_row(const Rows& job, int r, float* y) {
  job.kind == Float::f32 ? begin_typed<V, float>(job, r, y) : begin_typed<V, uint16_t>(job, r, y);
}

}  // namespace
}  // namespace vlapack
