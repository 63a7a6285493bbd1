// Times one pass of many through the layers on a device, and the exchanges in it, by events on the
// stream; they are read at the next such pass, so nobody waits for them. Graphs hold no events: a
// timed pass is started kernel by kernel. Owned by the model; the thread whose device it is.
#ifndef PACELINE_WORKER_MODELS_DEVICE_EXCHANGE_TIMER_H_
#define PACELINE_WORKER_MODELS_DEVICE_EXCHANGE_TIMER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "worker/device/device_memory.h"
#include "worker/models/exchange_times.h"

namespace paceline::worker {

class ExchangeTimer {
 public:
  // Every `interval`th pass. `times` outlives the timer.
  ExchangeTimer(kernels::device::Stream stream, int64_t interval, ExchangeTimes& times)
      : stream_(stream), interval_(interval), times_(times) {}

  // Whether the pass that begins is timed; if so, its beginning.
  absl::StatusOr<bool> BeginPass();
  absl::Status EndPass();
  // Before and after an exchange. Nothing outside of a timed pass.
  absl::Status Mark() { return is_timing_ ? Record() : absl::OkStatus(); }

 private:
  absl::Status Record();
  // Adds what the last timed pass took, if it is done.
  absl::Status Read();

  const kernels::device::Stream stream_;
  const int64_t interval_;
  ExchangeTimes& times_;
  int64_t num_passes_ = 0;
  bool is_timing_ = false;
  // Of a pass: its beginning, beginnings and ends of exchanges by turns, its end.
  std::vector<std::unique_ptr<DeviceEvent>> events_;
  size_t num_recorded_ = 0;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_DEVICE_EXCHANGE_TIMER_H_
