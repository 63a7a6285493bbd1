#include "kernels/cpu/thread_pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

namespace paceline::kernels {
namespace {

using Clock = std::chrono::steady_clock;

// A worker spins this long for the next region before it parks; the owner spins as long for the
// last worker. The first part is pure spinning, the rest yields so that a crowded machine moves on.
constexpr auto kSpinTime = std::chrono::microseconds(30);
constexpr auto kYieldTime = std::chrono::microseconds(200);
// Below this much work in all, ForRange does not involve the team.
constexpr int64_t kInlineWorkNs = 1500;

void FutexWait(std::atomic<uint32_t>& word, uint32_t expected) {
  static_assert(sizeof(word) == sizeof(uint32_t));
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void FutexWakeAll(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
}

// Spins, then yields, until done() or the time is up; true when done.
template <typename Done>
bool SpinUntil(bool crowded, Done done) {
  if (done()) return true;
  const Clock::time_point start = Clock::now();
  while (true) {
    for (int i = 0; i < 64; ++i) {
      if (done()) return true;
      if (!crowded) __builtin_ia32_pause();
    }
    const auto waited = Clock::now() - start;
    if (waited > kYieldTime) return false;
    if (crowded || waited > kSpinTime) sched_yield();
  }
}

std::vector<int> UsableProcessors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> processors;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return processors;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &set)) processors.push_back(i);
  }
  return processors;
}

void PinTo(pthread_t thread, int processor) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  pthread_setaffinity_np(thread, sizeof(set), &set);  // a hint: failure changes nothing
}

}  // namespace

WorkRange SplitWork(int64_t count, int64_t grain, int thread, int num_threads) {
  const int64_t pieces = (count + grain - 1) / grain;
  const int64_t begin = pieces * thread / num_threads * grain;
  const int64_t end = pieces * (thread + 1) / num_threads * grain;
  return {std::min(begin, count), std::min(end, count)};
}

ThreadPool::ThreadPool(int num_threads, bool pin)
    : num_threads_(num_threads),
      crowded_(static_cast<size_t>(num_threads) > UsableProcessors().size()) {
  if (num_threads < 1) std::abort();  // REQUIRES
  const std::vector<int> processors = UsableProcessors();
  for (int i = 1; i < num_threads; ++i) {
    workers_.emplace_back([this, i] { WorkerLoop(i); });
    if (pin && !processors.empty()) {
      PinTo(workers_.back().native_handle(), processors[i % processors.size()]);
    }
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  generation_.fetch_add(1);
  FutexWakeAll(generation_);
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::PinCallingThread() {
  const std::vector<int> processors = UsableProcessors();
  if (!processors.empty()) PinTo(pthread_self(), processors.front());
}

void ThreadPool::Run(absl::FunctionRef<void(int, int)> body) {
  if (num_threads_ == 1) {
    body(0, 1);
    return;
  }
  body_ = &body;
  running_.store(static_cast<uint32_t>(num_threads_ - 1), std::memory_order_relaxed);
  // Sequentially consistent with WaitForWork: either we see it parked, or it sees the generation.
  generation_.fetch_add(1);
  if (parked_.load() != 0) FutexWakeAll(generation_);
  body(0, num_threads_);
  WaitForWorkers();
  body_ = nullptr;
}

void ThreadPool::ForEach(int64_t count, absl::FunctionRef<void(int, int64_t)> body) {
  if (num_threads_ == 1 || count <= 1) {
    for (int64_t i = 0; i < count; ++i) body(0, i);
    return;
  }
  next_item_.store(0, std::memory_order_relaxed);
  Run([&](int thread, int) {
    for (int64_t i; (i = next_item_.fetch_add(1, std::memory_order_relaxed)) < count;) {
      body(thread, i);
    }
  });
}

void ThreadPool::ForRange(int64_t count, int64_t cost_ns, absl::FunctionRef<void(WorkRange)> body) {
  if (count <= 0) return;
  if (num_threads_ == 1 || count == 1 || count * cost_ns < kInlineWorkNs) {
    body({0, count});
    return;
  }
  Run([&](int thread, int num_threads) {
    const WorkRange range = SplitWork(count, 1, thread, num_threads);
    if (range.begin < range.end) body(range);
  });
}

void ThreadPool::WorkerLoop(int thread) {
  uint32_t seen = 0;
  while (true) {
    WaitForWork(seen);
    ++seen;  // one region at a time: the owner cannot have moved on before this worker ran it
    if (stop_.load()) return;
    (*body_)(thread, num_threads_);
    if (running_.fetch_sub(1) == 1 && owner_parked_.load() != 0) FutexWakeAll(running_);
  }
}

void ThreadPool::WaitForWork(uint32_t seen) {
  const auto has_work = [&] { return generation_.load(std::memory_order_acquire) != seen; };
  if (SpinUntil(crowded_, has_work)) return;
  parked_.fetch_add(1);
  while (generation_.load() == seen) FutexWait(generation_, seen);
  parked_.fetch_sub(1);
}

void ThreadPool::WaitForWorkers() {
  const auto done = [&] { return running_.load(std::memory_order_acquire) == 0; };
  if (SpinUntil(crowded_, done)) return;
  owner_parked_.store(1);
  for (uint32_t left; (left = running_.load()) != 0;) FutexWait(running_, left);
  owner_parked_.store(0);
}

}  // namespace paceline::kernels
