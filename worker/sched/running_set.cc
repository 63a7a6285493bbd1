#include "worker/sched/running_set.h"

#include "proto/support/log.h"

namespace paceline::worker {

std::vector<RunningSet::Slot>::iterator RunningSet::Locate(const SequenceOrder& order) {
  return std::lower_bound(
      slots_.begin(), slots_.end(), order, [](const Slot& slot, const SequenceOrder& o) {
        return slot.order < o;
      });
}

Sequence* RunningSet::front() {
  while (slots_[first_].sequence == nullptr) ++first_;
  return slots_[first_].sequence;
}

Sequence* RunningSet::back() {
  while (slots_.back().sequence == nullptr) slots_.pop_back();
  return slots_.back().sequence;
}

Sequence* RunningSet::LastIdle() const {
  for (auto slot = slots_.rbegin(); slot != slots_.rend(); ++slot) {
    if (slot->sequence != nullptr && !slot->sequence->in_batch) return slot->sequence;
  }
  return nullptr;
}

void RunningSet::Insert(Sequence* sequence) {
  auto it = Locate(sequence->order);
  // A hole on either side can take it without moving the rest.
  if (it != slots_.begin() && (it - 1)->sequence == nullptr) --it;
  if (it != slots_.end() && it->sequence == nullptr) {
    *it = {sequence->order, sequence};
  } else {
    PACELINE_CHECK(it == slots_.end() || it->order != sequence->order, "already running");
    it = slots_.insert(it, {sequence->order, sequence});
  }
  first_ = std::min(first_, static_cast<int32_t>(it - slots_.begin()));
  ++size_;
}

void RunningSet::Remove(Sequence* sequence) {
  const auto it = Locate(sequence->order);
  PACELINE_CHECK(it != slots_.end() && it->sequence == sequence, "not running");
  it->sequence = nullptr;
  --size_;
}

bool RunningSet::Contains(const Sequence* sequence) const {
  const auto it = const_cast<RunningSet*>(this)->Locate(sequence->order);
  return it != slots_.end() && it->sequence == sequence;
}

void RunningSet::Compact() {
  if (static_cast<size_t>(size_) != slots_.size()) {
    slots_.erase(std::remove_if(slots_.begin(),
                                slots_.end(),
                                [](const Slot& slot) { return slot.sequence == nullptr; }),
                 slots_.end());
  }
  first_ = 0;
}

}  // namespace paceline::worker
