#include "worker/models/device/exchange_timer.h"

#include "kernels/device/runtime.h"
#include "proto/support/status_macros.h"

namespace paceline::worker {

namespace device = kernels::device;

absl::StatusOr<bool> ExchangeTimer::BeginPass() {
  is_timing_ = num_passes_++ % interval_ == interval_ - 1;
  if (!is_timing_) return false;
  RETURN_IF_ERROR(Read());
  RETURN_IF_ERROR(Record());
  return true;
}

absl::Status ExchangeTimer::EndPass() {
  RETURN_IF_ERROR(Mark());
  is_timing_ = false;
  return absl::OkStatus();
}

absl::Status ExchangeTimer::Record() {
  if (num_recorded_ == events_.size()) {
    ASSIGN_OR_RETURN(events_.emplace_back(), DeviceEvent::Create(/*timed=*/true));
  }
  return events_[num_recorded_++]->Record(stream_);
}

absl::Status ExchangeTimer::Read() {
  const size_t count = num_recorded_;
  num_recorded_ = 0;
  if (count == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(const bool is_done, events_[count - 1]->IsDone());
  if (!is_done) return absl::OkStatus();
  const auto between = [this](size_t from, size_t to) {
    return device::ElapsedNs(events_[from]->get(), events_[to]->get());
  };
  ASSIGN_OR_RETURN(const int64_t pass_ns, between(0, count - 1));
  times_.timed_ns += pass_ns;
  for (size_t i = 1; i + 2 < count; i += 2) {
    ASSIGN_OR_RETURN(const int64_t exchange_ns, between(i, i + 1));
    times_.exchange_ns += exchange_ns;
  }
  return absl::OkStatus();
}

}  // namespace paceline::worker
