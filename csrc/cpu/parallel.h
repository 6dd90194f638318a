// How a kernel spreads work over threads it does not own.
#pragma once
#include <atomic>
#include <cstdint>

namespace tts {

// Supplied by bindings.cpp (torch's own pool) or by a test (one thread).
struct Parallel {
  using Body = void (*)(int64_t begin, int64_t end, void* context);
  void (*run)(int64_t tasks, Body body, void* context);
  int num_threads;
};

// Calls task(i) for every i in [0, tasks). Threads draw tasks from a counter, so uneven tasks even out;
// a task writes only its own output, so the order does not show in the result.
template <class Task>
inline void for_each_task(const Parallel& parallel, int64_t tasks, const Task& task) {
  struct Context {
    const Task* task;
    std::atomic<int64_t> next;
    int64_t tasks;
  } context{&task, {0}, tasks};
  const int64_t workers = parallel.num_threads < tasks ? parallel.num_threads : tasks;
  parallel.run(
      workers,
      [](int64_t, int64_t, void* opaque) {
        auto* shared = static_cast<Context*>(opaque);
        for (int64_t i; (i = shared->next.fetch_add(1, std::memory_order_relaxed)) < shared->tasks;) (*shared->task)(i);
      },
      &context);
}

}  // namespace tts
