// Cuts a product into queries, keys and values, turns the first two by position, and puts the last two where attention
// reads them.
#pragma once

#include "kernels.hpp"

namespace vlapack {

struct Turning {
  Float kind;  // of everything
  int64_t batch, tokens;
  int64_t heads, groups, width;  // of queries; of keys and values; of all
  const void* product;           // [batch * tokens][...]: the first `here` of the heads + 2 groups
  int64_t pitch, here;
  const void* rest;  // the others, or null
  int64_t rest_pitch;
  const void *cos, *sin;  // [batch or 1][tokens][width], sines with their signs
  int64_t table_pitch;    // elements from sample to sample, or 0
  void *keys, *values;    // [batch][groups][capacity][width]; tokens from `first` on are written
  int64_t capacity, first;
  void* queries;  // [batch][tokens][heads][width]
};

// One of batch * tokens.
void turn_task(const Turning& job, int64_t row);

void turn(const Turning& job, int threads);

}  // namespace vlapack
