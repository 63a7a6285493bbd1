// What a rank of a replica has done: steps, time at work and time in exchanges with other ranks.
// Each rank measures itself; the leader reads the others' through the memory that they share. Owned
// by the rank; engine thread or rank loop only.
#ifndef PACELINE_WORKER_RUNNER_RANK_WORK_H_
#define PACELINE_WORKER_RUNNER_RANK_WORK_H_

#include <cstdint>

#include "proto/support/clock.h"
#include "worker/runner/rank_group.h"

namespace paceline::worker {

struct RankWork {
  int64_t steps = 0;
  int64_t compute_ns = 0;
  int64_t wait_ns = 0;
  ExchangeTimes device;
  uint32_t beats = 0;  // of the rank's pulse; 0: nobody watches it
};

// Adds what happens while it lives.
class WorkScope {
 public:
  // `group` may be null: one rank alone.
  WorkScope(const RankGroup* group, RankWork& work)
      : group_(group), work_(work), start_ns_(Now()), waited_ns_(Waited()) {}
  ~WorkScope() {
    const int64_t waited_ns = Waited() - waited_ns_;
    work_.wait_ns += waited_ns;
    work_.compute_ns += Now() - start_ns_ - waited_ns;
  }
  WorkScope(const WorkScope&) = delete;
  WorkScope& operator=(const WorkScope&) = delete;

 private:
  static int64_t Now() { return SteadyClock::Get().NowNs(); }
  int64_t Waited() const { return group_ == nullptr ? 0 : group_->waited_ns(); }

  const RankGroup* const group_;
  RankWork& work_;
  const int64_t start_ns_;
  const int64_t waited_ns_;
};

// For the leader, which reads it if it is on this host.
inline void PublishWork(const RankGroup& group, const RankWork& work) {
  if (group.seats == nullptr) return;
  Seat& seat = group.seats->seat(group.all->rank() - group.first_seat);
  seat.steps_done.store(work.steps, std::memory_order_relaxed);
  seat.compute_ns.store(work.compute_ns, std::memory_order_relaxed);
  seat.wait_ns.store(work.wait_ns, std::memory_order_relaxed);
  seat.timed_ns.store(group.exchange_times.timed_ns, std::memory_order_relaxed);
  seat.exchange_ns.store(group.exchange_times.exchange_ns, std::memory_order_relaxed);
}

// Of the rank that has seat `index`.
inline RankWork ReadWork(const RankGroup& group, int index) {
  const Seat& seat = group.seats->seat(index);
  return {.steps = seat.steps_done.load(std::memory_order_relaxed),
          .compute_ns = seat.compute_ns.load(std::memory_order_relaxed),
          .wait_ns = seat.wait_ns.load(std::memory_order_relaxed),
          .device = {.timed_ns = seat.timed_ns.load(std::memory_order_relaxed),
                     .exchange_ns = seat.exchange_ns.load(std::memory_order_relaxed)},
          .beats = seat.beats.load(std::memory_order_relaxed)};
}

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_RUNNER_RANK_WORK_H_
