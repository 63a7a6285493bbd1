#include "cli/device.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/support/log.h"
#include "worker/device/nvml.h"
#include "worker/models/backend.h"
#include "worker/runner/rank_group.h"

namespace paceline::cli {
namespace {

using kernels::DType;

DeviceChoice Cpu(const EngineOptions& options) {
  DeviceChoice choice;
  if (options.compute_dtype == "float32") {
    choice.compute = kernels::ComputeType::kFloat32;
    choice.kv_dtype = DType::kF32;
  }
  if (options.kv_cache_dtype == "f16") choice.kv_dtype = DType::kF16;
  if (options.kv_cache_dtype == "int8") choice.kv_dtype = DType::kI8;
  choice.description = "cpu";
  return choice;
}

// Types that only one kind of device has. Empty: the option may be had.
std::string NotOnGpus(const EngineOptions& options) {
  if (options.compute_dtype == "float32") return "--compute-dtype float32";
  if (options.kv_cache_dtype == "f16" && options.compute_dtype != "f16") {
    return "--kv-cache-dtype f16 without --compute-dtype f16";
  }
  return "";
}

std::string NotOnCpus(const EngineOptions& options) {
  const bool has_16_bits = options.compute_dtype == "bf16" || options.compute_dtype == "f16";
  if (has_16_bits) return absl::StrCat("--compute-dtype ", options.compute_dtype);
  if (options.kv_cache_dtype == "fp8") return "--kv-cache-dtype fp8";
  return options.prefill_attention == "wgmma" ? "--prefill-attention wgmma" : "";
}

// NCCL's own switch (2.30 and newer).
bool NcclSharesDevices() {
  const char* const value = std::getenv("NCCL_MULTI_RANK_GPU_ENABLE");
  return value != nullptr && std::string_view(value) == "1";
}

absl::StatusOr<std::vector<kernels::device::DeviceInfo>> ListDevices() {
  const worker::Backend* const backend = worker::LinkedBackend();
  if (backend != nullptr) return backend->list();
  return absl::FailedPreconditionError(
      "this build has no code for GPUs; build with the CUDA toolkit and -DPACELINE_CUDA=ON");
}

}  // namespace

absl::StatusOr<DeviceChoice> ChooseDevice(const EngineOptions& options, int32_t local_rank) {
  const std::string not_on_gpus = NotOnGpus(options);
  const std::string not_on_cpus = NotOnCpus(options);
  const auto no_such_type = [&](const std::string& what) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " does not go with --device ", options.device));
  };
  if (options.device == "cpu") {
    if (!not_on_cpus.empty()) return no_such_type(not_on_cpus);
    return Cpu(options);
  }
  const bool must = options.device == "cuda";
  if (must && !not_on_gpus.empty()) return no_such_type(not_on_gpus);
  if (!not_on_gpus.empty()) return Cpu(options);
  const auto devices = ListDevices();
  if (!devices.ok()) {
    const bool needs_gpu = must || !not_on_cpus.empty();
    if (!needs_gpu) return Cpu(options);
    return absl::FailedPreconditionError(absl::StrCat(must ? "--device cuda" : not_on_cpus,
                                                      ": ",
                                                      std::string(devices.status().message()),
                                                      "; --device cpu runs without"));
  }
  const int32_t ranks_per_replica = std::max(
      1, options.tensor_parallel_size * options.pipeline_parallel_size / options.num_nodes);
  const auto num_devices = static_cast<int32_t>(devices->size());
  const int32_t ranks = options.replicas_on_host * ranks_per_replica;
  const int32_t rank = options.replica_on_host * ranks_per_replica + local_rank;
  const kernels::device::DeviceInfo& device = (*devices)[rank % num_devices];
  const int32_t sharers = (ranks - rank % num_devices + num_devices - 1) / num_devices;
  const bool wgmma = options.prefill_attention == "wgmma";
  if (wgmma && device.kind != "sm_90" && device.kind != "emulation") {
    return absl::FailedPreconditionError(absl::StrCat(
        "--prefill-attention wgmma needs a GPU of kind sm_90; this one is ", device.kind));
  }
  DeviceChoice choice;
  choice.is_cpu = false;
  choice.load = worker::LinkedBackend()->load;
  choice.place = {.index = device.index,
                  .dtype = options.compute_dtype == "f16" ? DType::kF16 : DType::kBF16,
                  .memory_utilization = options.gpu_memory_utilization / std::max(1, sharers),
                  .nccl_shares_devices = NcclSharesDevices(),
                  .wgmma_prefill = wgmma};
  choice.compute = kernels::ComputeType::kFloat32;  // weights as they are in the file
  choice.kv_dtype = choice.place.dtype;
  if (options.kv_cache_dtype == "int8") choice.kv_dtype = DType::kI8;
  if (options.kv_cache_dtype == "fp8") choice.kv_dtype = DType::kE4M3;
  const char* const type = choice.place.dtype == DType::kF16 ? "f16" : "bf16";
  choice.pci_address = device.pci_address;
  choice.kind = absl::StrCat("cuda-", device.kind, "-", type, wgmma ? "-wgmma" : "");
  choice.description =
      absl::StrCat(device.name, " (cuda:", device.index, ", ", device.kind, "), ", type);
  return choice;
}

std::unique_ptr<worker::GpuMonitor> WatchGpu(
    const DeviceChoice& choice, std::function<void(const worker::GpuReading&)> on_reading) {
  if (choice.is_cpu || choice.pci_address.empty()) return nullptr;
  absl::StatusOr<std::unique_ptr<worker::GpuSensor>> sensor = worker::OpenNvml(choice.pci_address);
  if (!sensor.ok()) {
    spdlog::warn("the GPU is not watched: {}", std::string(sensor.status().message()));
    return nullptr;
  }
  return std::make_unique<worker::GpuMonitor>(
      *std::move(sensor), std::move(on_reading), [](const std::string& fault) {
        spdlog::critical("{}: this process ends", fault);
        spdlog::shutdown();
        _exit(worker::kLostRankExit);  // its supervisor starts it anew
      });
}

}  // namespace paceline::cli
