#include "worker/runner/pulse.h"

#include <chrono>

namespace paceline::worker {

Pulse::~Pulse() {
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  stop_.notify_one();
  thread_.join();
}

void Pulse::Beat() {
  std::unique_lock lock(mutex_);
  do {
    const int64_t since = working_since_ms_.load();
    if (since == kWaiting || SteadyClock::Get().NowMs() - since < max_work_ms_)
      beats_->fetch_add(1);
  } while (!stop_.wait_for(lock, std::chrono::milliseconds(500), [this] { return stopped_; }));
}

}  // namespace paceline::worker
