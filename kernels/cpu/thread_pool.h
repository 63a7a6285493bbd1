// The CPU's stream: a fixed team of threads that runs one parallel region at a time.
// Owned by the engine (one per rank). Regions are started by one thread at a time, the owner, which
// works as thread 0; so a pool of one thread starts none and a region is a plain loop.
//
// A region is a list of items that threads claim one by one. A worker that is late (asleep, or
// without a processor on a busy machine) is not waited for: the others do its share. Workers spin
// for a bounded time after a region, because a step is hundreds of regions a few microseconds apart
// and a futex wake costs 25; then they park, so an idle pool uses no CPU.
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

// Part `part` of `num_parts` nearly equal consecutive parts of [0, count).
WorkRange SplitWork(int64_t count, int64_t part, int64_t num_parts);

class ThreadPool {
 public:
  // Starts num_threads - 1 workers. `pin` binds worker i to the i-th processor this process may use
  // (thread 0, the caller, is left alone; see PinCallingThread). REQUIRES: num_threads >= 1.
  ThreadPool(int num_threads, bool pin);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Calls body(thread, item) once for every item in [0, count) and returns when all have returned;
  // items are claimed in increasing order, thread < num_threads(). Everything written before is
  // visible to the bodies, and their writes to the caller after.
  // `body` must not start a region, wait for another item, or throw.
  void ForEach(int64_t count, absl::FunctionRef<void(int thread, int64_t item)> body);

  // Calls body(part, num_threads()) once for every part in [0, num_threads()), as ForEach does:
  // parts may share a thread.
  void Run(absl::FunctionRef<void(int part, int num_parts)> body);

  // Cuts [0, count) into ranges for ForEach; runs inline when count * cost_ns (a rough estimate) is
  // too small to be worth a region.
  void ForRange(int64_t count, int64_t cost_ns, absl::FunctionRef<void(WorkRange)> body);

  // Workers asleep now, using no processor time. Any thread.
  int num_parked() const { return static_cast<int>(parked_.load()); }

  // Binds the calling thread to the first processor this process may use.
  static void PinCallingThread();

 private:
  void WorkerLoop(int thread);
  bool EnterRegion(uint32_t& seen);
  void WaitForRegion(uint32_t seen);
  void WaitForWorkers();
  void ClaimItems(int thread);

  const int num_threads_;
  const bool crowded_;  // more threads than processors: yield rather than spin

  // The region being run: written by the owner while it is closed.
  const absl::FunctionRef<void(int, int64_t)>* body_ = nullptr;
  int64_t count_ = 0;

  // generation << 32 | closed bit | number of workers inside. A worker enters by a compare-exchange
  // while the region is open, so nobody is inside a region that the owner has closed and left.
  alignas(64) std::atomic<uint64_t> region_;
  alignas(64) std::atomic<int64_t> next_item_{0};
  alignas(64) std::atomic<uint32_t> parked_{0};  // workers asleep on wake_
  std::atomic<uint32_t> wake_{0};                // futex word, bumped to wake them
  std::atomic<uint32_t> owner_parked_{0};        // futex word of the owner
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_CPU_THREAD_POOL_H_
