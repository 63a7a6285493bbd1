// Watches the GPU that a worker runs on: what it uses, and whether it has failed. Readings come
// through GpuSensor, of which nvml.h has the real one. Owned by the worker process.
#ifndef PACELINE_WORKER_DEVICE_GPU_MONITOR_H_
#define PACELINE_WORKER_DEVICE_GPU_MONITOR_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/statusor.h"

namespace paceline::worker {

struct GpuReading {
  int64_t memory_used_bytes = 0;  // by all processes
  int64_t memory_total_bytes = 0;
  double utilization = 0;  // part of the time in which a kernel ran, 0 to 1
};

// One GPU. One thread. An error of either: it cannot be reached any more.
class GpuSensor {
 public:
  virtual ~GpuSensor() = default;
  virtual absl::StatusOr<GpuReading> Read() = 0;
  // The next critical Xid (the driver's number of a fault), or nullopt when none came in time.
  virtual absl::StatusOr<std::optional<int64_t>> WaitForXid(int64_t timeout_ms) = 0;
};

// Whether a GPU that reported it has to be reset or replaced: others are the fault of one program.
bool IsFatalXid(int64_t xid);

class GpuMonitor {
 public:
  // Reads at least every second on a thread of its own, and hands each reading to `on_reading`.
  // After a fatal Xid or an error of the sensor it calls `on_fault` once, with one line that says
  // what happened, and reads no more.
  GpuMonitor(std::unique_ptr<GpuSensor> sensor,
             std::function<void(const GpuReading&)> on_reading,
             std::function<void(const std::string&)> on_fault);
  ~GpuMonitor();
  GpuMonitor(const GpuMonitor&) = delete;
  GpuMonitor& operator=(const GpuMonitor&) = delete;

 private:
  void Loop();

  const std::unique_ptr<GpuSensor> sensor_;
  const std::function<void(const GpuReading&)> on_reading_;
  const std::function<void(const std::string&)> on_fault_;
  std::atomic<bool> stop_{false};
  std::thread thread_;  // last: starts when everything else is there
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_DEVICE_GPU_MONITOR_H_
