// One thread that owns state: tasks posted from anywhere run on it one after another, and timers
// fire on it. The router's queue, request log and fleet live on one such loop, so they need no
// locks. Owned by whoever embeds the router. Post: any thread. Timers: loop thread (or before
// Start).
//
// std::mutex instead of absl::Mutex: the distribution's Abseil is not built for ThreadSanitizer, so
// hand-overs through absl::Mutex would be reported as races.
#ifndef PACELINE_ROUTER_CORE_EVENT_LOOP_H_
#define PACELINE_ROUTER_CORE_EVENT_LOOP_H_

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/functional/any_invocable.h"
#include "proto/support/clock.h"

namespace paceline::router {

using Task = absl::AnyInvocable<void()>;

// Posts to a loop that may be gone: then tasks are destroyed unrun. Copies are cheap. Any thread.
class Poster {
 public:
  void Post(Task task) const;

 private:
  friend class EventLoop;
  struct Inbox {
    std::mutex mutex;  // guards everything below
    std::condition_variable wake;
    std::vector<Task> posted;
    bool stopped = false;
  };
  explicit Poster(std::shared_ptr<Inbox> inbox) : inbox_(std::move(inbox)) {}

  std::shared_ptr<Inbox> inbox_;
};

class EventLoop {
 public:
  // Names a timer: when it fires and a serial number. {0, 0} is no timer.
  using TimerId = std::pair<int64_t, uint64_t>;

  // `clock` must outlive the loop.
  explicit EventLoop(const Clock* clock) : clock_(clock) {}
  // Stops.
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  const Clock& clock() const { return *clock_; }

  // Runs `task` on the loop, after those posted before. Dropped (destroyed unrun) after Stop.
  void Post(Task task) { poster_.Post(std::move(task)); }
  // For callers that may outlive the loop.
  const Poster& poster() const { return poster_; }

  // Runs `task` on the loop at `at_ns` (steady clock) or as soon after as possible.
  TimerId RunAt(int64_t at_ns, Task task);
  // Forgets the timer and zeroes `id`; a timer that already fired, or none, is fine.
  void CancelTimer(TimerId& id);

  // Starts the loop's thread. At most once.
  void Start();
  // Runs no further task and joins the thread. Tasks and timers that wait are destroyed unrun. Not
  // from the loop's own thread.
  void Stop();

  // Without a thread (tests, offline use): runs what is due on the caller's thread until nothing
  // is, and returns how many tasks ran.
  int RunReady();

 private:
  // Moves out what was posted; waits for it up to the next timer when `wait` is set.
  std::vector<Task> Take(bool wait);
  int RunOnce(bool wait);
  bool IsStopped() const;

  const Clock* const clock_;
  const Poster poster_{std::make_shared<Poster::Inbox>()};
  // Loop thread only.
  absl::btree_map<TimerId, Task> timers_;
  uint64_t next_timer_ = 1;
  std::thread thread_;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_CORE_EVENT_LOOP_H_
