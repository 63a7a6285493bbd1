// How long a device did nothing between two steps: from the end of one's answers to the beginning
// of the next one's first kernel, by events on the stream that are read when both are past. Owned
// by the model; the thread whose device it is.
#ifndef PACELINE_WORKER_MODELS_DEVICE_IDLE_CLOCK_H_
#define PACELINE_WORKER_MODELS_DEVICE_IDLE_CLOCK_H_

#include <array>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/device/device_memory.h"

namespace paceline::worker {

class IdleClock {
 public:
  static absl::StatusOr<std::unique_ptr<IdleClock>> Create();

  absl::Status BeginStep(kernels::device::Stream stream);
  absl::Status EndStep(kernels::device::Stream stream);
  // Before the last step that is over and was not read yet; -1: there is none, or it followed one
  // that never ended (a part of a prompt, which has no answers).
  absl::StatusOr<int64_t> ReadNs();

 private:
  struct Step {
    std::unique_ptr<DeviceEvent> begun;
    std::unique_ptr<DeviceEvent> ended;
    bool is_whole = false;  // began once since the step before ended
  };
  Step& At(int64_t number) { return steps_[number % steps_.size()]; }

  std::array<Step, 4> steps_;
  int64_t num_ended_ = 0;
  int64_t num_read_ = 1;  // nothing is before the first
  bool has_begun_ = false;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_DEVICE_IDLE_CLOCK_H_
