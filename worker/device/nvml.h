// NVIDIA's management library, which comes with the driver and is loaded when it is asked for.
// Any thread.
#ifndef PACELINE_WORKER_DEVICE_NVML_H_
#define PACELINE_WORKER_DEVICE_NVML_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/device/gpu_monitor.h"

namespace paceline::worker {

// The GPU at this PCI address ("0000:3B:00.0"). FailedPrecondition: there is no such library, or it
// does not know the GPU; the text says which. `library`: a test's.
absl::StatusOr<std::unique_ptr<GpuSensor>> OpenNvml(
    const std::string& pci_address, const std::string& library = "libnvidia-ml.so.1");

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_DEVICE_NVML_H_
