#include "threads.hpp"

#include <dlfcn.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <atomic>
#include <optional>
#include <thread>
#include <vector>

#include "team.hpp"

// A second pool beside torch's would fight it: OpenMP's idle threads spin for a while before they sleep, on the very
// cores that ours would then need. So we take torch's team. Its OpenMP library (GNU's, LLVM's or Intel's; on Linux all
// of them export GNU's entry point) is in the process and its symbols are global; linking one ourselves could bring in
// another copy, which is another pool.
namespace vlapack {
namespace {

std::atomic<int64_t> all_starts{0}, all_meetings{0};

void note(std::atomic<int64_t>& one_more) { one_more.fetch_add(1, std::memory_order_relaxed); }

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

// A thread whose others are late because they have no core must not keep one from them.
constexpr int kSpins = 4000;  // some 50 us

void pause(int spins) {
  if (spins > kSpins) return std::this_thread::yield();
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

struct Together {
  const std::function<void(Team&)>& body;
  std::optional<Team> team;
  std::atomic<bool> ready{false};
};

// The team's size is known only inside: OpenMP may give fewer threads than it was asked for.
void join(void* pointer) {
  Together& work = *static_cast<Together*>(pointer);
  using Count = int (*)();
  static const Count count = reinterpret_cast<Count>(dlsym(RTLD_DEFAULT, "omp_get_num_threads"));
  static const Count number = reinterpret_cast<Count>(dlsym(RTLD_DEFAULT, "omp_get_thread_num"));
  if (number() == 0) {
    work.team.emplace(count());
    work.ready.store(true, std::memory_order_release);
  }
  for (int spins = 0; !work.ready.load(std::memory_order_acquire); ++spins) pause(spins);
  work.body(*work.team);
}

}  // namespace

void Team::meet() {
  const unsigned before = meetings_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
    next_.store(0, std::memory_order_relaxed);
    arrived_.store(0, std::memory_order_relaxed);
    if (threads_ > 1) note(all_meetings);
    meetings_.store(before + 1, std::memory_order_release);
    return;
  }
  for (int spins = 0; meetings_.load(std::memory_order_acquire) == before; ++spins) pause(spins);
}

void parallel(int64_t count, int threads, const std::function<void(int64_t)>& task) {
  threads = static_cast<int>(std::min<int64_t>(threads, count));
  Work work{{0}, count, task};
  if (threads <= 1) return run(&work);
  note(all_starts);
  if (openmp()) return openmp()(run, &work, static_cast<unsigned>(threads), 0);
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(run, &work);
  run(&work);
  for (std::thread& other : others) other.join();
}

void together(int threads, const std::function<void(Team&)>& body) {
  Together work{body, {}, {}};
  if (threads > 1) note(all_starts);
  if (threads > 1 && openmp()) return openmp()(join, &work, static_cast<unsigned>(threads), 0);
  work.team.emplace(std::max(threads, 1));
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back([&work] { work.body(*work.team); });
  work.body(*work.team);
  for (std::thread& other : others) other.join();
}

Waits waits() { return {all_starts.load(), all_meetings.load()}; }

const char* thread_source() { return openmp() ? "openmp" : "threads"; }

}  // namespace vlapack
