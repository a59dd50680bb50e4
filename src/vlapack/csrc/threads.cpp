#include "threads.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

// A second pool beside torch's would fight it: OpenMP's idle threads spin for a while before they sleep, on the very
// cores that ours would then need. So we take torch's team. Its OpenMP library (GNU's, LLVM's or Intel's; on Linux all
// of them export GNU's entry point) is in the process and its symbols are global; linking one ourselves could bring in
// another copy, which is another pool.
namespace vlapack {
namespace {

using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

struct Work {
  std::atomic<int64_t> next{0};
  int64_t count;
  const std::function<void(int64_t)>& task;
};

void run(void* pointer) {
  Work& work = *static_cast<Work*>(pointer);
  for (int64_t i; (i = work.next.fetch_add(1, std::memory_order_relaxed)) < work.count;) work.task(i);
}

Parallel openmp() {
  static const Parallel entry = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return entry;
}

}  // namespace

void parallel(int64_t count, int threads, const std::function<void(int64_t)>& task) {
  threads = static_cast<int>(std::min<int64_t>(threads, count));
  Work work{{0}, count, task};
  if (threads <= 1) return run(&work);
  if (openmp()) return openmp()(run, &work, static_cast<unsigned>(threads), 0);
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(run, &work);
  run(&work);
  for (std::thread& other : others) other.join();
}

const char* thread_source() { return openmp() ? "openmp" : "threads"; }

}  // namespace vlapack
