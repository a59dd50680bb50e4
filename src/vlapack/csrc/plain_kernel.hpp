// softmax(q kᵀ / √D) v of one row in fp32, on keys and values as they lie. Internal linkage, as in float_kernels.hpp.
#pragma once

#include <cmath>

#include "exponential.hpp"
#include "kernels.hpp"

namespace vlapack {
namespace {

template <class V>
float dot(const float* a, const float* b, int64_t width) {
  constexpr int kLanes = V::kLanes;
  typename V::Register sums[2] = {V::broadcast(0.0f), V::broadcast(0.0f)};
  int64_t k = 0;
  for (; k + 2 * kLanes <= width; k += 2 * kLanes)
    for (int i = 0; i < 2; ++i) sums[i] = V::fma(V::load(a + k + i * kLanes), V::load(b + k + i * kLanes), sums[i]);
  float lanes[kLanes], sum = 0;
  V::store(lanes, sums[0] + sums[1]);
  for (const float lane : lanes) sum += lane;
  for (; k < width; ++k) sum += a[k] * b[k];
  return sum;
}

template <class V>
void attend_plain(const PlainRow& row) {
  const float factor = 1.0f / std::sqrt(static_cast<float>(row.width));
  float most = -__builtin_inff();
  for (int64_t t = 0; t < row.tokens; ++t) {
    const bool seen = t < row.seen && (!row.exists || t >= row.prefix || row.exists[t]);
    row.scores[t] = seen ? dot<V>(row.query, row.keys + t * row.key_pitch, row.width) * factor : -__builtin_inff();
    most = row.scores[t] > most ? row.scores[t] : most;
  }
  float sum = 0;
  const typename V::Register shift = V::broadcast(most);
  for (int64_t t = 0; t < row.tokens; t += V::kLanes)
    V::store(row.scores + t, exponential<V>(V::load(row.scores + t) - shift));
  for (int64_t t = 0; t < row.tokens; ++t) sum += row.scores[t];
  for (int64_t k = 0; k < row.width; ++k) row.out[k] = 0;
  for (int64_t t = 0; t < row.tokens; ++t) {
    const float weight = row.scores[t] / sum;
    const float* value = row.values + t * row.value_pitch;
    for (int64_t k = 0; k < row.width; ++k) row.out[k] += weight * value[k];
  }
}

}  // namespace
}  // namespace vlapack
