// Threads that go through the same stages together: one start for many stages, where `parallel` starts them for each.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

namespace vlapack {

class Team {
 public:
  explicit Team(int threads) : threads_(threads) {}

  // Calls `task(i)` once for every i in [0, count); which thread takes which is decided as they become free. All threads
  // call it with the same arguments, and leave it when all tasks are done. A task must not throw.
  template <class Task>
  void share(int64_t count, const Task& task) {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count;) task(i);
    meet();
  }

 private:
  // Waits until every thread is here; the last one readies the next stage.
  void meet();

  const int threads_;
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> meetings_{0};
};

// Run `body` on at most `threads` threads, this one included, and return when all have left it.
void together(int threads, const std::function<void(Team&)>& body);

}  // namespace vlapack
