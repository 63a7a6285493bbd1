#include "worker/device/nvml.h"

#include <dlfcn.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/support/status_macros.h"

namespace paceline::worker {
namespace {

// What is used of NVML's interface, whose header the toolkit may not bring.
using NvmlDevice = void*;
using NvmlEventSet = void*;
struct NvmlUtilization {
  unsigned int gpu;  // percent
  unsigned int memory;
};
struct NvmlMemory {
  unsigned long long total;  // NOLINT: as NVML declares it
  unsigned long long free;   // NOLINT
  unsigned long long used;   // NOLINT
};
struct NvmlEventData {
  NvmlDevice device;
  unsigned long long event_type;  // NOLINT
  unsigned long long event_data;  // NOLINT: the Xid
  unsigned int gpu_instance_id;
  unsigned int compute_instance_id;
};
constexpr int kNvmlSuccess = 0;
constexpr int kNvmlTimeout = 10;
constexpr unsigned long long kNvmlXidCritical = 8;  // NOLINT

struct LibraryCloser {
  void operator()(void* library) const { dlclose(library); }
};

class NvmlSensor final : public GpuSensor {
 public:
  static absl::StatusOr<std::unique_ptr<GpuSensor>> Open(const std::string& pci_address,
                                                         const std::string& library) {
    auto sensor = std::unique_ptr<NvmlSensor>(new NvmlSensor());
    sensor->library_.reset(dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL));
    if (sensor->library_ == nullptr) {
      return absl::FailedPreconditionError(absl::StrCat("NVML cannot be loaded: ", dlerror()));
    }
    RETURN_IF_ERROR(sensor->FindFunctions());
    RETURN_IF_ERROR(sensor->Start(pci_address));
    return sensor;
  }

  ~NvmlSensor() override {
    if (events_ != nullptr) event_set_free_(events_);
    if (started_) shutdown_();
  }

  absl::StatusOr<GpuReading> Read() override {
    NvmlMemory memory{};
    RETURN_IF_ERROR(Check("nvmlDeviceGetMemoryInfo", memory_info_(device_, &memory)));
    NvmlUtilization utilization{};
    RETURN_IF_ERROR(Check("nvmlDeviceGetUtilizationRates", utilization_(device_, &utilization)));
    return GpuReading{.memory_used_bytes = static_cast<int64_t>(memory.used),
                      .memory_total_bytes = static_cast<int64_t>(memory.total),
                      .utilization = utilization.gpu / 100.0};
  }

  absl::StatusOr<std::optional<int64_t>> WaitForXid(int64_t timeout_ms) override {
    NvmlEventData event{};
    const int result = event_set_wait_(events_, &event, static_cast<unsigned int>(timeout_ms));
    if (result == kNvmlTimeout) return std::nullopt;
    RETURN_IF_ERROR(Check("nvmlEventSetWait", result));
    if (event.event_type != kNvmlXidCritical) return std::nullopt;
    return static_cast<int64_t>(event.event_data);
  }

 private:
  template <typename Function>
  absl::Status Find(const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library_.get(), name));
    if (function != nullptr) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat("NVML has no ", name));
  }

  absl::Status FindFunctions() {
    RETURN_IF_ERROR(Find("nvmlInit_v2", init_));
    RETURN_IF_ERROR(Find("nvmlShutdown", shutdown_));
    RETURN_IF_ERROR(Find("nvmlErrorString", error_string_));
    RETURN_IF_ERROR(Find("nvmlDeviceGetHandleByPciBusId_v2", handle_by_pci_));
    RETURN_IF_ERROR(Find("nvmlDeviceGetMemoryInfo", memory_info_));
    RETURN_IF_ERROR(Find("nvmlDeviceGetUtilizationRates", utilization_));
    RETURN_IF_ERROR(Find("nvmlEventSetCreate", event_set_create_));
    RETURN_IF_ERROR(Find("nvmlEventSetFree", event_set_free_));
    RETURN_IF_ERROR(Find("nvmlDeviceRegisterEvents", register_events_));
    return Find("nvmlEventSetWait_v2", event_set_wait_);
  }

  absl::Status Start(const std::string& pci_address) {
    RETURN_IF_ERROR(Check("nvmlInit", init_()));
    started_ = true;
    RETURN_IF_ERROR(
        Check("nvmlDeviceGetHandleByPciBusId", handle_by_pci_(pci_address.c_str(), &device_)));
    RETURN_IF_ERROR(Check("nvmlEventSetCreate", event_set_create_(&events_)));
    return Check("nvmlDeviceRegisterEvents", register_events_(device_, kNvmlXidCritical, events_));
  }

  absl::Status Check(const char* call, int result) const {
    if (result == kNvmlSuccess) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(call, ": ", error_string_(result)));
  }

  std::unique_ptr<void, LibraryCloser> library_;
  int (*init_)() = nullptr;
  int (*shutdown_)() = nullptr;
  const char* (*error_string_)(int) = nullptr;
  int (*handle_by_pci_)(const char*, NvmlDevice*) = nullptr;
  int (*memory_info_)(NvmlDevice, NvmlMemory*) = nullptr;
  int (*utilization_)(NvmlDevice, NvmlUtilization*) = nullptr;
  int (*event_set_create_)(NvmlEventSet*) = nullptr;
  int (*event_set_free_)(NvmlEventSet) = nullptr;
  int (*register_events_)(NvmlDevice, unsigned long long, NvmlEventSet) = nullptr;  // NOLINT
  int (*event_set_wait_)(NvmlEventSet, NvmlEventData*, unsigned int) = nullptr;

  bool started_ = false;
  NvmlDevice device_ = nullptr;
  NvmlEventSet events_ = nullptr;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GpuSensor>> OpenNvml(const std::string& pci_address,
                                                    const std::string& library) {
  return NvmlSensor::Open(pci_address, library);
}

}  // namespace paceline::worker
