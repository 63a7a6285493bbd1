// CUDA's runtime, linked statically: it looks for the driver when it is first asked, so a machine
// without one gets an error here and nothing else.
#include "kernels/device/runtime.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <bit>
#include <mutex>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "kernels/device/native/error.h"

namespace paceline::kernels::device {
namespace {

// The oldest architecture that there is code for (kernels/device/CMakeLists.txt).
constexpr int kOldestMajor = 8;

cudaStream_t Native(Stream stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t NativeEvent(Event event) { return static_cast<cudaEvent_t>(event); }

// Rows further apart than this are copied one by one: CUDA's limit.
constexpr int64_t kMaxPitch = (int64_t{1} << 31) - 1;

struct NativeHandle {
  uint64_t process;
  void* memory;  // there
  char pci_address[32];
  cudaIpcMemHandle_t ipc;
  char unused[sizeof(SharedHandle) - 48 - sizeof(cudaIpcMemHandle_t)];
};

std::mutex g_mutex;
std::set<void*> g_mapped;  // of other processes; guarded by g_mutex

// Names this process among those of all hosts and containers, as its number does not.
uint64_t ThisProcess() {
  static const uint64_t process = [] {
    std::random_device random;
    return uint64_t{random()} << 32 | random();
  }();
  return process;
}

absl::Status WhyNoDevice(cudaError_t error) {
  if (error == cudaErrorInsufficientDriver) {
    int version = 0;
    if (cudaDriverGetVersion(&version) != cudaSuccess || version == 0) {
      return absl::FailedPreconditionError(
          "no NVIDIA driver (libcuda.so.1) on this machine; in a container, start it with GPUs");
    }
    return absl::FailedPreconditionError(absl::StrCat("the NVIDIA driver knows CUDA ",
                                                      version / 1000,
                                                      ".",
                                                      version % 1000 / 10,
                                                      ", this build needs ",
                                                      CUDART_VERSION / 1000,
                                                      ".0; update the driver"));
  }
  if (error == cudaErrorNoDevice) {
    return absl::FailedPreconditionError(
        "the NVIDIA driver shows no GPU (see CUDA_VISIBLE_DEVICES, nvidia-smi)");
  }
  return absl::FailedPreconditionError(
      absl::StrCat("CUDA does not start: ", cudaGetErrorString(error)));
}

}  // namespace

absl::StatusOr<std::vector<DeviceInfo>> ListDevices() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return WhyNoDevice(error);
  std::vector<DeviceInfo> devices;
  std::string too_old;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    if (absl::Status status = ToStatus(cudaGetDeviceProperties(&properties, i)); !status.ok()) {
      return status;
    }
    const std::string kind = absl::StrCat("sm_", properties.major, properties.minor);
    if (properties.major < kOldestMajor) {
      absl::StrAppend(&too_old, too_old.empty() ? "" : ", ", properties.name, " (", kind, ")");
      continue;
    }
    char pci_address[32] = {};
    if (absl::Status status = ToStatus(cudaDeviceGetPCIBusId(pci_address, sizeof(pci_address), i));
        !status.ok()) {
      return status;
    }
    devices.push_back({.index = i,
                       .name = properties.name,
                       .kind = kind,
                       .total_bytes = static_cast<int64_t>(properties.totalGlobalMem),
                       .pci_address = pci_address});
  }
  if (devices.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("no GPU that can be used: ", too_old, "; sm_80 or newer is needed"));
  }
  return devices;
}

absl::Status UseDevice(int32_t index) { return ToStatus(cudaSetDevice(index)); }

absl::StatusOr<MemoryInfo> ReadMemory() {
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  if (absl::Status status = ToStatus(cudaMemGetInfo(&free_bytes, &total_bytes)); !status.ok()) {
    return status;
  }
  return MemoryInfo{static_cast<int64_t>(free_bytes), static_cast<int64_t>(total_bytes)};
}

absl::StatusOr<void*> Allocate(int64_t bytes) {
  void* memory = nullptr;
  if (absl::Status status = ToStatus(cudaMalloc(&memory, bytes)); !status.ok()) return status;
  return memory;
}

void Free(void* memory) { cudaFree(memory); }

absl::StatusOr<void*> AllocatePinned(int64_t bytes) {
  void* memory = nullptr;
  if (absl::Status status = ToStatus(cudaMallocHost(&memory, bytes)); !status.ok()) return status;
  return memory;
}

void FreePinned(void* memory) { cudaFreeHost(memory); }

absl::StatusOr<SharedMemory> AllocateShared(int64_t bytes) {
  // Smaller pieces may lie in one allocation of the driver's, which would be shared as a whole.
  constexpr int64_t kWhole = int64_t{2} << 20;
  int device = 0;
  NativeHandle handle{.process = ThisProcess()};
  if (absl::Status status = ToStatus(cudaGetDevice(&device)); !status.ok()) return status;
  absl::Status status =
      ToStatus(cudaDeviceGetPCIBusId(handle.pci_address, sizeof(handle.pci_address), device));
  if (!status.ok()) return status;
  absl::StatusOr<void*> memory = Allocate((bytes + kWhole - 1) / kWhole * kWhole);
  if (!memory.ok()) return memory.status();
  handle.memory = *memory;
  status = ToStatus(cudaIpcGetMemHandle(&handle.ipc, *memory));
  if (!status.ok()) {
    Free(*memory);
    return status;
  }
  return SharedMemory{.memory = *memory, .handle = std::bit_cast<SharedHandle>(handle)};
}

// A device that this process is not shown may be reached nevertheless: only the driver knows.
absl::StatusOr<void*> Map(const SharedHandle& shared) {
  const auto handle = std::bit_cast<NativeHandle>(shared);
  int device = 0;
  if (absl::Status status = ToStatus(cudaGetDevice(&device)); !status.ok()) return status;
  int owner = -1;
  if (cudaDeviceGetByPCIBusId(&owner, handle.pci_address) != cudaSuccess) {
    cudaGetLastError();
    owner = -1;
  }
  if (owner >= 0 && owner != device) {
    int reaches = 0;
    absl::Status status = ToStatus(cudaDeviceCanAccessPeer(&reaches, device, owner));
    if (!status.ok()) return status;
    if (reaches == 0) {
      return absl::FailedPreconditionError(
          absl::StrCat("the GPU has no way to the memory of GPU ", handle.pci_address));
    }
  }
  void* memory = handle.memory;
  if (handle.process == ThisProcess()) {
    if (owner == device) return memory;
    const cudaError_t error = cudaDeviceEnablePeerAccess(owner, 0);
    if (error == cudaErrorPeerAccessAlreadyEnabled) {
      cudaGetLastError();
      return memory;
    }
    if (absl::Status status = ToStatus(error); !status.ok()) return status;
    return memory;
  }
  absl::Status status =
      ToStatus(cudaIpcOpenMemHandle(&memory, handle.ipc, cudaIpcMemLazyEnablePeerAccess));
  if (!status.ok()) return status;
  const std::lock_guard lock(g_mutex);
  g_mapped.insert(memory);
  return memory;
}

void Unmap(void* memory) {
  {
    const std::lock_guard lock(g_mutex);
    if (g_mapped.erase(memory) == 0) return;  // of this process
  }
  cudaIpcCloseMemHandle(memory);
}

absl::StatusOr<Stream> CreateStream() {
  cudaStream_t stream = nullptr;
  const cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (absl::Status status = ToStatus(error); !status.ok()) return status;
  return stream;
}

void DestroyStream(Stream stream) { cudaStreamDestroy(Native(stream)); }

absl::Status Synchronize(Stream stream) { return ToStatus(cudaStreamSynchronize(Native(stream))); }

absl::StatusOr<Event> CreateEvent(bool timed) {
  cudaEvent_t event = nullptr;
  const cudaError_t error =
      cudaEventCreateWithFlags(&event, timed ? cudaEventDefault : cudaEventDisableTiming);
  if (absl::Status status = ToStatus(error); !status.ok()) return status;
  return event;
}

void DestroyEvent(Event event) { cudaEventDestroy(NativeEvent(event)); }

absl::Status Record(Stream stream, Event event) {
  return ToStatus(cudaEventRecord(NativeEvent(event), Native(stream)));
}

absl::StatusOr<int64_t> ElapsedNs(Event from, Event to) {
  float ms = 0;
  absl::Status status = ToStatus(cudaEventElapsedTime(&ms, NativeEvent(from), NativeEvent(to)));
  if (!status.ok()) return status;
  return static_cast<int64_t>(static_cast<double>(ms) * 1e6);
}

absl::Status Await(Event event) { return ToStatus(cudaEventSynchronize(NativeEvent(event))); }

absl::Status BeginCapture(Stream stream) {
  return ToStatus(cudaStreamBeginCapture(Native(stream), cudaStreamCaptureModeThreadLocal));
}

absl::StatusOr<Graph> EndCapture(Stream stream) {
  cudaGraph_t captured = nullptr;
  absl::Status status = ToStatus(cudaStreamEndCapture(Native(stream), &captured));
  if (!status.ok()) return status;
  cudaGraphExec_t graph = nullptr;
  status = ToStatus(cudaGraphInstantiate(&graph, captured, 0));
  cudaGraphDestroy(captured);
  if (!status.ok()) return status;
  return graph;
}

absl::Status LaunchGraph(Stream stream, Graph graph) {
  return ToStatus(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), Native(stream)));
}

void DestroyGraph(Graph graph) { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)); }

absl::StatusOr<bool> IsDone(Event event) {
  const cudaError_t error = cudaEventQuery(NativeEvent(event));
  if (error == cudaErrorNotReady) return false;
  if (absl::Status status = ToStatus(error); !status.ok()) return status;
  return true;
}

absl::Status WaitFor(Stream stream, Event event) {
  return ToStatus(cudaStreamWaitEvent(Native(stream), NativeEvent(event), 0));
}

absl::Status CopyRows(Stream stream,
                      void* to,
                      int64_t to_pitch,
                      const void* from,
                      int64_t from_pitch,
                      int64_t width,
                      int64_t rows) {
  if (width == 0 || rows == 0) return absl::OkStatus();
  if (rows == 1 || (width == to_pitch && width == from_pitch)) {
    return ToStatus(cudaMemcpyAsync(to, from, width * rows, cudaMemcpyDefault, Native(stream)));
  }
  if (std::max(to_pitch, from_pitch) > kMaxPitch) {
    for (int64_t row = 0; row < rows; ++row) {
      const absl::Status status = Copy(stream,
                                       static_cast<char*>(to) + row * to_pitch,
                                       static_cast<const char*>(from) + row * from_pitch,
                                       width);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }
  return ToStatus(cudaMemcpy2DAsync(
      to, to_pitch, from, from_pitch, width, rows, cudaMemcpyDefault, Native(stream)));
}

}  // namespace paceline::kernels::device
