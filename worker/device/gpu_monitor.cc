#include "worker/device/gpu_monitor.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"

namespace paceline::worker {
namespace {

constexpr int64_t kReadEveryMs = 1000;

// Stopped processing, double-bit ECC error, row remapping failed, fallen off the bus, uncontained
// ECC error.
constexpr int64_t kFatalXids[] = {46, 48, 64, 79, 95};

}  // namespace

bool IsFatalXid(int64_t xid) {
  return std::find(std::begin(kFatalXids), std::end(kFatalXids), xid) != std::end(kFatalXids);
}

GpuMonitor::GpuMonitor(std::unique_ptr<GpuSensor> sensor,
                       std::function<void(const GpuReading&)> on_reading,
                       std::function<void(const std::string&)> on_fault)
    : sensor_(std::move(sensor)),
      on_reading_(std::move(on_reading)),
      on_fault_(std::move(on_fault)),
      thread_([this] { Loop(); }) {}

GpuMonitor::~GpuMonitor() {
  stop_ = true;
  thread_.join();
}

void GpuMonitor::Loop() {
  while (!stop_) {
    const absl::StatusOr<GpuReading> reading = sensor_->Read();
    if (!reading.ok()) {
      return on_fault_(absl::StrCat("the GPU does not answer: ", reading.status().message()));
    }
    on_reading_(*reading);
    const absl::StatusOr<std::optional<int64_t>> xid = sensor_->WaitForXid(kReadEveryMs);
    if (!xid.ok()) {
      return on_fault_(absl::StrCat("the GPU does not answer: ", xid.status().message()));
    }
    if (xid->has_value() && IsFatalXid(**xid)) {
      return on_fault_(absl::StrCat("the GPU has failed: Xid ", **xid));
    }
  }
}

}  // namespace paceline::worker
