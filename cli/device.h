// Where an engine's model runs: --device, as this build and this machine allow. Stateless; main
// thread.
#ifndef PACELINE_CLI_DEVICE_H_
#define PACELINE_CLI_DEVICE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cli/options.h"
#include "kernels/gemm/activations.h"
#include "kernels/tensor_view.h"
#include "worker/device/gpu_monitor.h"
#include "worker/models/registry.h"

namespace paceline::cli {

struct DeviceChoice {
  bool is_cpu = true;
  worker::ModelLoader load = &worker::LoadModel;
  worker::DevicePlace place;  // of a device that is not the CPU
  std::string pci_address;    // of a GPU
  std::string kind;           // what decides its bits: "cuda-sm_90"; empty: the CPU
  std::string description;    // for the log: "NVIDIA H200 (cuda:0, sm_90), bf16"
  kernels::ComputeType compute = kernels::ComputeType::kInt8;  // of the CPU
  kernels::DType kv_dtype = kernels::DType::kF16;
};

// Rank `local_rank` of those that a worker has on this host: ranks and replicas of a host are dealt
// out to its devices in turn, and share a device's memory when they are more.
// InvalidArgument: options that the device does not have; FailedPrecondition: there is no such
// device, and what is missing.
absl::StatusOr<DeviceChoice> ChooseDevice(const EngineOptions& options, int32_t local_rank);

// Watches the choice's GPU: hands on what it uses, and ends this process, with a line that says
// why, when it has failed. Null for the CPU and where there is no NVML, which the log then says.
std::unique_ptr<worker::GpuMonitor> WatchGpu(
    const DeviceChoice& choice, std::function<void(const worker::GpuReading&)> on_reading);

}  // namespace paceline::cli

#endif  // PACELINE_CLI_DEVICE_H_
