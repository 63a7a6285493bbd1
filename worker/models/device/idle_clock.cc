#include "worker/models/device/idle_clock.h"

#include <utility>

#include "proto/support/status_macros.h"

namespace paceline::worker {

absl::StatusOr<std::unique_ptr<IdleClock>> IdleClock::Create() {
  auto clock = std::make_unique<IdleClock>();
  for (Step& step : clock->steps_) {
    ASSIGN_OR_RETURN(step.begun, DeviceEvent::Create(/*timed=*/true));
    ASSIGN_OR_RETURN(step.ended, DeviceEvent::Create(/*timed=*/true));
  }
  return clock;
}

absl::Status IdleClock::BeginStep(kernels::device::Stream stream) {
  Step& step = At(num_ended_);
  step.is_whole = !std::exchange(has_begun_, true);
  return step.begun->Record(stream);
}

absl::Status IdleClock::EndStep(kernels::device::Stream stream) {
  if (!std::exchange(has_begun_, false)) return absl::OkStatus();  // more answers of the same step
  return At(num_ended_++).ended->Record(stream);
}

absl::StatusOr<int64_t> IdleClock::ReadNs() {
  const int64_t last = num_ended_ - 1;
  if (last < num_read_) return -1;
  ASSIGN_OR_RETURN(const bool is_done, At(last).ended->IsDone());
  if (!is_done) return -1;
  num_read_ = num_ended_;
  if (!At(last).is_whole) return -1;
  return kernels::device::ElapsedNs(At(last - 1).ended->get(), At(last).begun->get());
}

}  // namespace paceline::worker
