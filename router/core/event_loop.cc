#include "router/core/event_loop.h"

#include <algorithm>
#include <chrono>

namespace paceline::router {
namespace {

// How long the loop sleeps at most without a timer; only bounds the cost of a lost wake-up.
constexpr int64_t kMaxSleepNs = 1'000'000'000;

}  // namespace

EventLoop::~EventLoop() { Stop(); }

void Poster::Post(Task task) const {
  {
    const std::lock_guard<std::mutex> lock(inbox_->mutex);
    if (inbox_->stopped) return;
    inbox_->posted.push_back(std::move(task));
    if (inbox_->posted.size() > 1) return;  // woken for the first; all are taken together
  }
  inbox_->wake.notify_one();
}

EventLoop::TimerId EventLoop::RunAt(int64_t at_ns, Task task) {
  const TimerId id{at_ns, next_timer_++};
  timers_.emplace(id, std::move(task));
  return id;
}

void EventLoop::CancelTimer(TimerId& id) {
  timers_.erase(id);
  id = TimerId{};
}

void EventLoop::Start() {
  thread_ = std::thread([this] {
    while (RunOnce(/*wait=*/true) >= 0) {
    }
  });
}

void EventLoop::Stop() {
  std::vector<Task> dropped;
  {
    const std::lock_guard<std::mutex> lock(poster_.inbox_->mutex);
    poster_.inbox_->stopped = true;
    dropped.swap(poster_.inbox_->posted);
  }
  poster_.inbox_->wake.notify_one();
  if (thread_.joinable()) thread_.join();
  timers_.clear();
}

int EventLoop::RunReady() {
  int total = 0;
  for (int ran = RunOnce(/*wait=*/false); ran > 0; ran = RunOnce(/*wait=*/false)) total += ran;
  return total;
}

std::vector<Task> EventLoop::Take(bool wait) {
  int64_t sleep_ns = kMaxSleepNs;
  if (!timers_.empty()) {
    sleep_ns = std::clamp<int64_t>(timers_.begin()->first.first - clock_->NowNs(), 0, kMaxSleepNs);
  }
  std::vector<Task> tasks;
  Poster::Inbox& inbox = *poster_.inbox_;
  std::unique_lock<std::mutex> lock(inbox.mutex);
  if (wait && sleep_ns > 0) {
    inbox.wake.wait_for(lock, std::chrono::nanoseconds(sleep_ns), [&inbox] {
      return inbox.stopped || !inbox.posted.empty();
    });
  }
  tasks.swap(inbox.posted);
  return tasks;
}

bool EventLoop::IsStopped() const {
  const std::lock_guard<std::mutex> lock(poster_.inbox_->mutex);
  return poster_.inbox_->stopped;
}

// Returns how many tasks ran, or -1 once stopped.
int EventLoop::RunOnce(bool wait) {
  std::vector<Task> tasks = Take(wait);
  int ran = 0;
  for (Task& task : tasks) {
    if (IsStopped()) return -1;
    std::move(task)();
    task = nullptr;  // what it held is released before the next one runs
    ++ran;
  }
  // Timers that are due now; those that they add wait for the next round.
  const int64_t now_ns = clock_->NowNs();
  const uint64_t limit = next_timer_;
  while (!timers_.empty()) {
    auto first = timers_.begin();
    if (first->first.first > now_ns || first->first.second >= limit) break;
    Task task = std::move(first->second);
    timers_.erase(first);
    std::move(task)();
    ++ran;
  }
  return IsStopped() ? -1 : ran;
}

}  // namespace paceline::router
