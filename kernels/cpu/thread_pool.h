// The CPU's stream: a fixed team of threads that runs one parallel region at a time.
// Owned by the engine (one per rank). Run() may be called by one thread at a time, the owner, which
// works as thread 0; so a pool of one thread starts none and Run() is a plain call.
//
// Workers spin for a bounded time after a region, because a step is hundreds of regions a few
// microseconds apart and a futex wake costs 25; then they park, so an idle pool uses no CPU. With
// more threads than processors they yield instead of spinning.
#ifndef PACELINE_KERNELS_CPU_THREAD_POOL_H_
#define PACELINE_KERNELS_CPU_THREAD_POOL_H_

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace paceline::kernels {

// Half-open range of work items.
struct WorkRange {
  int64_t begin;
  int64_t end;
};

// The part of `count` items, dealt in multiples of `grain`, that belongs to `thread`.
WorkRange SplitWork(int64_t count, int64_t grain, int thread, int num_threads);

class ThreadPool {
 public:
  // Starts num_threads - 1 workers. `pin` binds worker i to the i-th processor this process may use
  // (thread 0, the caller, is left alone; see PinCallingThread). REQUIRES: num_threads >= 1.
  ThreadPool(int num_threads, bool pin);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Calls body(thread, num_threads()) once on every thread and returns when all have returned.
  // Everything written before is visible to the bodies, and their writes to the caller after.
  // Not re-entrant: `body` must not call Run. `body` must not throw.
  void Run(absl::FunctionRef<void(int thread, int num_threads)> body);

  // Calls body(thread, item) for every item in [0, count); threads claim the next item when they
  // are free, in increasing order. Runs inline when count is 1. As Run() otherwise.
  void ForEach(int64_t count, absl::FunctionRef<void(int thread, int64_t item)> body);

  // Splits [0, count) statically into one range per thread; runs inline when count * cost_ns (a
  // rough estimate) is too small to be worth waking the team.
  void ForRange(int64_t count, int64_t cost_ns, absl::FunctionRef<void(WorkRange)> body);

  // Binds the calling thread to the first processor this process may use.
  static void PinCallingThread();

 private:
  void WorkerLoop(int thread);
  void WaitForWork(uint32_t seen);
  void WaitForWorkers();

  const int num_threads_;
  const bool crowded_;  // more threads than processors: yield rather than spin

  // The region being run; written by the owner before it bumps generation_.
  const absl::FunctionRef<void(int, int)>* body_ = nullptr;

  alignas(64) std::atomic<uint32_t> generation_{0};  // futex word; odd history does not matter
  std::atomic<uint32_t> parked_{0};                  // workers asleep on generation_
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<uint32_t> running_{0};  // workers still inside body_; futex word
  std::atomic<uint32_t> owner_parked_{0};
  alignas(64) std::atomic<int64_t> next_item_{0};  // ForEach's shared counter
  std::vector<std::thread> workers_;
};

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_CPU_THREAD_POOL_H_
