// Runs tasks on the threads that torch already has.
#pragma once

#include <cstdint>
#include <functional>

namespace vlapack {

// Call `task(i)` once for every i in [0, count), on at most `threads` threads, this one included; which thread takes
// which is decided as they become free. Returns when all are done. A task must not throw.
void parallel(int64_t count, int threads, const std::function<void(int64_t)>& task);

// Where the threads come from: `openmp`, the team that torch's own operations use, or `threads`, started per call,
// where torch was built without OpenMP.
const char* thread_source();

// How often threads had to wait for each other since the process began, one thread alone not counted: starts of
// `parallel` and `together`, and what `Team::share` ends with. For benchmarks/threads.py.
struct Waits {
  int64_t starts, meetings;
};
Waits waits();

}  // namespace vlapack
