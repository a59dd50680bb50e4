// softmax(q kᵀ / √D) v in fp32, on keys and values as they lie: for small networks, and for results to compare with.
#pragma once

#include "attention.hpp"

namespace vlapack {

struct PlainAttention {
  int64_t batches, groups;
  int64_t tokens, width;    // S and D
  int64_t queries, shared;  // tokens that ask; their heads in a group
  const float* query;
  Pitches from;
  const float *keys, *values;
  Pitches key, value;
  float* out;
  Pitches into;
  int64_t prefix;      // the tokens that came before those that ask
  const bool* exists;  // [batches][prefix], or null: all
  bool state_token;    // whether the first query sees the prefix and itself only
};

// A task is one row.
int64_t plain_tasks(const PlainAttention& job);
void plain_task(const PlainAttention& job, int64_t task);

void attend(const PlainAttention& job, int threads);

}  // namespace vlapack
