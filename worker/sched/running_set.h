// The running sequences in order: what every step walks, so a flat array with the keys inline.
// Removal leaves a hole that the next walk closes. Owned by Scheduler. Engine thread only.
#ifndef PACELINE_WORKER_SCHED_RUNNING_SET_H_
#define PACELINE_WORKER_SCHED_RUNNING_SET_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "worker/core/sequence.h"

namespace paceline::worker {

class RunningSet {
 public:
  struct Slot {
    SequenceOrder order;
    Sequence* sequence;  // null: a hole
  };

  int32_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  // First and last in order. REQUIRES: not empty. Amortised O(1).
  Sequence* front();
  Sequence* back();
  // The last one in order that is in no batch; null when all are. O(1) but for those that are.
  Sequence* LastIdle() const;

  // O(log n), plus a move of what is behind it. REQUIRES: not in the set.
  void Insert(Sequence* sequence);
  // O(log n). REQUIRES: in the set.
  void Remove(Sequence* sequence);
  bool Contains(const Sequence* sequence) const;

  // Closes the holes. Afterwards slots() has exactly the members. Not while walking.
  void Compact();
  // In order, holes included. Invalidated by Insert; Remove leaves positions as they are.
  const std::vector<Slot>& slots() const { return slots_; }

 private:
  std::vector<Slot>::iterator Locate(const SequenceOrder& order);

  std::vector<Slot> slots_;
  int32_t size_ = 0;
  int32_t first_ = 0;  // no member before this index
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_SCHED_RUNNING_SET_H_
