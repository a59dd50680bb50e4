// y = s * weight_scale * (q Wᵀ) + bias, the integer product exact.
#pragma once

#include "kernels.hpp"

namespace vlapack {

struct Linear {
  int64_t rows, inputs, outputs;
  const int8_t* q;        // [rows][inputs]
  const float* s;         // [rows]
  const uint8_t* weight;  // prepared
  int bits;
  const void* weight_scale;  // fp32 [outputs], or bf16 [outputs][groups]
  int64_t group;             // input channels that share a scale, a multiple of 8; 0: all
  const float* bias;         // [outputs] or null
  void* out;                 // [rows][outputs]
  int64_t pitch;             // elements from row to row
  Float kind;
  int threads;
};

void linear(const Linear& job);

// The same on threads that run already, which share a workspace of `Plan::workspace` bytes at an address divisible by 64:
//
//     const Plan plan(job);
//     every pack_task(job, plan, workspace, i), 0 <= i < plan.pack_tasks
//     a barrier
//     every multiply_task(job, plan, workspace, i), 0 <= i < plan.multiply_tasks
//
// Tasks of one kind may run in any order, on any threads. A thread that packs everything into a workspace of its own
// needs no barrier. Which thread does what changes no bit of the result.
//
// A plan depends on the sizes in a job, its `threads` and the instruction set in use, not on any address: it serves
// every product of that shape.
struct Plan {
  explicit Plan(const Linear& job);

  const Kernels* isa;
  const MatrixUnit* unit;                // multiplies; null: the product of `isa`
  int64_t tiles, panels;                 // of rows; of outputs
  int64_t steps;                         // of kDepth channels
  int64_t group_steps, groups;           // what shares a weight scale; 1 if all do
  int64_t height, group_depths, depths;  // of a matrix unit's tiles; see matrix_unit.hpp
  int64_t runs, chunks;                  // pieces that the panels and the tiles are cut into
  int64_t packed_bytes, workspace;       // the workspace is what is packed, then what the sums begin with
  int64_t pack_tasks, multiply_tasks;
};

void pack_task(const Linear& job, const Plan& plan, void* workspace, int64_t task);
void multiply_task(const Linear& job, const Plan& plan, void* workspace, int64_t task);

// What `multiply_task` multiplies: some neighbouring panels of some neighbouring tiles.
struct Rectangle {
  int64_t first_panel, last_panel, first_tile, last_tile;
};
Rectangle rectangle(const Plan& plan, int64_t task);

}  // namespace vlapack
