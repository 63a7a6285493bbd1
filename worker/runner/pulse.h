// Tells the process that started a rank that it lives: a thread counts up twice a second while the
// rank waits for others or gets on with its own work, and stops when that takes too long. A process
// that is stopped or stuck so shows, even where no other rank waits for it. Owned by the rank's
// group; Working and Waiting are for the rank's one thread.
#ifndef PACELINE_WORKER_RUNNER_PULSE_H_
#define PACELINE_WORKER_RUNNER_PULSE_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "proto/support/clock.h"

namespace paceline::worker {

// Longest that a rank may take from one sign of work to the next, a layer at most.
constexpr int64_t kMaxWorkMs = 4'000;

class Pulse {
 public:
  explicit Pulse(std::shared_ptr<std::atomic<uint32_t>> beats, int64_t max_work_ms = kMaxWorkMs)
      : beats_(std::move(beats)), max_work_ms_(max_work_ms), thread_([this] { Beat(); }) {}
  ~Pulse();
  Pulse(const Pulse&) = delete;
  Pulse& operator=(const Pulse&) = delete;

  // Is at work, and has got somewhere just now.
  void Working() { working_since_ms_.store(SteadyClock::Get().NowMs()); }
  // Waits for other ranks or for requests, for however long.
  void Waiting() { working_since_ms_.store(kWaiting); }

 private:
  static constexpr int64_t kWaiting = -1;
  void Beat();

  const std::shared_ptr<std::atomic<uint32_t>> beats_;
  const int64_t max_work_ms_;
  std::atomic<int64_t> working_since_ms_{kWaiting};
  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopped_ = false;  // guarded by mutex_
  std::thread thread_;    // last: starts when all else is there
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_RUNNER_PULSE_H_
