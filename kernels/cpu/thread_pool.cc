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

// A worker waits this long for the next region before it parks, and the owner this long for the
// last worker. The first part is pure spinning, the rest yields so that a crowded machine moves on.
constexpr auto kSpinTime = std::chrono::microseconds(30);
constexpr auto kYieldTime = std::chrono::microseconds(200);
// Below this much work in all, ForRange does not involve the team.
constexpr int64_t kInlineWorkNs = 1500;
// ForRange cuts finer than one range per thread, so that a late thread does little harm.
constexpr int64_t kRangesPerThread = 4;

constexpr uint64_t kClosed = uint64_t{1} << 31;
constexpr uint64_t kInside = kClosed - 1;  // mask of the number of workers inside

uint32_t Generation(uint64_t region) { return static_cast<uint32_t>(region >> 32); }

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

WorkRange SplitWork(int64_t count, int64_t part, int64_t num_parts) {
  return {count * part / num_parts, count * (part + 1) / num_parts};
}

ThreadPool::ThreadPool(int num_threads, bool pin)
    : num_threads_(num_threads),
      crowded_(static_cast<size_t>(num_threads) > UsableProcessors().size()),
      region_(kClosed) {
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
  wake_.fetch_add(1);
  FutexWakeAll(wake_);
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::PinCallingThread() {
  const std::vector<int> processors = UsableProcessors();
  if (!processors.empty()) PinTo(pthread_self(), processors.front());
}

void ThreadPool::ForEach(int64_t count, absl::FunctionRef<void(int, int64_t)> body) {
  if (num_threads_ == 1 || count <= 1) {
    for (int64_t i = 0; i < count; ++i) body(0, i);
    return;
  }
  body_ = &body;
  count_ = count;
  next_item_.store(0, std::memory_order_relaxed);
  const uint64_t generation = Generation(region_.load(std::memory_order_relaxed)) + uint64_t{1};
  // Sequentially consistent with WaitForRegion: either we see it parked, or it sees the region.
  region_.store(generation << 32);
  if (parked_.load() != 0) {
    wake_.fetch_add(1);
    FutexWakeAll(wake_);
  }
  ClaimItems(0);
  region_.fetch_or(kClosed);
  WaitForWorkers();
}

void ThreadPool::Run(absl::FunctionRef<void(int, int)> body) {
  ForEach(num_threads_, [&](int, int64_t part) { body(static_cast<int>(part), num_threads_); });
}

void ThreadPool::ForRange(int64_t count, int64_t cost_ns, absl::FunctionRef<void(WorkRange)> body) {
  if (count <= 0) return;
  const int64_t ranges =
      std::min({count, kRangesPerThread * num_threads_, 1 + count * cost_ns / kInlineWorkNs});
  if (num_threads_ == 1 || ranges == 1) {
    body({0, count});
    return;
  }
  ForEach(ranges, [&](int, int64_t i) { body(SplitWork(count, i, ranges)); });
}

void ThreadPool::ClaimItems(int thread) {
  for (int64_t i; (i = next_item_.fetch_add(1, std::memory_order_relaxed)) < count_;) {
    (*body_)(thread, i);
  }
}

void ThreadPool::WorkerLoop(int thread) {
  uint32_t seen = 0;  // generation of the last region this worker looked at
  while (true) {
    WaitForRegion(seen);
    if (stop_.load()) return;
    if (!EnterRegion(seen)) continue;
    ClaimItems(thread);
    const uint64_t left = region_.fetch_sub(1) - 1;
    if ((left & kClosed) != 0 && (left & kInside) == 0 && owner_parked_.load() != 0) {
      owner_parked_.store(0);
      FutexWakeAll(owner_parked_);
    }
  }
}

// True when this worker is now inside the region of generation `seen`; false when it is over.
bool ThreadPool::EnterRegion(uint32_t& seen) {
  uint64_t region = region_.load();
  while ((region & kClosed) == 0) {
    if (region_.compare_exchange_weak(region, region + 1)) break;
  }
  seen = Generation(region);
  return (region & kClosed) == 0;
}

void ThreadPool::WaitForRegion(uint32_t seen) {
  const auto ready = [&] { return Generation(region_.load()) != seen || stop_.load(); };
  if (SpinUntil(crowded_, ready)) return;
  parked_.fetch_add(1);
  while (true) {
    const uint32_t wake = wake_.load();
    if (ready()) break;
    FutexWait(wake_, wake);
  }
  parked_.fetch_sub(1);
}

void ThreadPool::WaitForWorkers() {
  const auto done = [&] { return (region_.load() & kInside) == 0; };
  while (!SpinUntil(crowded_, done)) {
    // Flag first, look again, then sleep: the last worker clears the flag or we see it gone.
    owner_parked_.store(1);
    if (!done()) FutexWait(owner_parked_, 1);
    owner_parked_.store(0);
  }
}

}  // namespace paceline::kernels
