#include "kernels/emulation/runtime.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/device/runtime.h"
#include "kernels/emulation/capture.h"
#include "kernels/emulation/memory.h"

namespace paceline::kernels {
namespace {

std::atomic<bool> g_broken = false;
std::mutex g_mutex;  // guards what follows
std::unordered_map<void*, int64_t> g_sizes;
int64_t g_allocated = 0;
int64_t g_total = int64_t{1} << 30;
std::atomic<int64_t> g_num_graph_starts{0};
int32_t g_num_devices = 1;

absl::Status Broken() { return absl::UnavailableError("the GPU has failed: it was broken"); }

}  // namespace

namespace emulation {

void SetNumDevices(int32_t count) {
  const std::lock_guard lock(g_mutex);
  g_num_devices = count;
}

void SetMemoryBytes(int64_t bytes) {
  const std::lock_guard lock(g_mutex);
  g_total = bytes;
}

int64_t NumGraphStarts() { return g_num_graph_starts; }

int64_t AllocatedBytes() {
  const std::lock_guard lock(g_mutex);
  return g_allocated;
}

void BreakDevice() { g_broken = true; }

}  // namespace emulation

namespace device {
namespace {

absl::Status CheckNotCapturing() {
  if (emulation::t_captured == nullptr) return absl::OkStatus();
  return absl::InternalError("a stream that captures cannot be waited for");
}

}  // namespace

absl::StatusOr<std::vector<DeviceInfo>> ListDevices() {
  const std::lock_guard lock(g_mutex);
  std::vector<DeviceInfo> devices;
  for (int32_t i = 0; i < g_num_devices; ++i) {
    devices.push_back(
        {.index = i, .name = "emulation", .kind = "emulation", .total_bytes = g_total});
  }
  return devices;
}

absl::Status UseDevice(int32_t index) {
  const std::lock_guard lock(g_mutex);
  if (index >= 0 && index < g_num_devices) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("the emulation has no device ", index));
}

absl::StatusOr<MemoryInfo> ReadMemory() {
  const std::lock_guard lock(g_mutex);
  return MemoryInfo{std::max<int64_t>(0, g_total - g_allocated), g_total};
}

absl::StatusOr<void*> Allocate(int64_t bytes) {
  const std::lock_guard lock(g_mutex);
  if (bytes > g_total - g_allocated) return absl::ResourceExhaustedError("out of GPU memory");
  // Whole 16 bytes: the address is then a multiple of them, as what vector loads are given must be.
  const int64_t size = (bytes + 15) / 16 * 16;
  void* const memory = emulation::Allocate(size);
  g_sizes[memory] = size;
  g_allocated += size;
  return memory;
}

void Free(void* memory) {
  if (memory == nullptr) return;
  const std::lock_guard lock(g_mutex);
  const auto found = g_sizes.find(memory);
  if (found == g_sizes.end()) std::abort();
  emulation::Free(memory, found->second);
  g_allocated -= found->second;
  g_sizes.erase(found);
}

absl::StatusOr<void*> AllocatePinned(int64_t bytes) { return std::malloc(bytes); }
void FreePinned(void* memory) { std::free(memory); }

// Work is done at once, in the order of the calls.
absl::StatusOr<Stream> CreateStream() { return nullptr; }
void DestroyStream(Stream) {}
absl::Status Synchronize(Stream) {
  if (g_broken) return Broken();
  return CheckNotCapturing();
}
absl::StatusOr<Event> CreateEvent() { return nullptr; }
void DestroyEvent(Event) {}
absl::Status Record(Stream, Event) { return absl::OkStatus(); }
absl::Status Await(Event) { return CheckNotCapturing(); }
absl::StatusOr<bool> IsDone(Event) { return true; }
absl::Status WaitFor(Stream, Event) { return absl::OkStatus(); }

absl::Status BeginCapture(Stream) {
  if (absl::Status status = CheckNotCapturing(); !status.ok()) return status;
  emulation::t_captured = new emulation::Captured;
  return absl::OkStatus();
}

absl::StatusOr<Graph> EndCapture(Stream) {
  if (emulation::t_captured == nullptr) return absl::InternalError("nothing is captured");
  return std::exchange(emulation::t_captured, nullptr);
}

absl::Status LaunchGraph(Stream, Graph graph) {
  ++g_num_graph_starts;
  for (const emulation::Work& work : *static_cast<emulation::Captured*>(graph)) {
    if (absl::Status status = emulation::DoOrCapture(work); !status.ok()) return status;
  }
  return absl::OkStatus();
}

void DestroyGraph(Graph graph) { delete static_cast<emulation::Captured*>(graph); }

absl::Status CopyRows(Stream,
                      void* to,
                      int64_t to_pitch,
                      const void* from,
                      int64_t from_pitch,
                      int64_t width,
                      int64_t rows) {
  if (g_broken) return Broken();
  return emulation::DoOrCapture([=] {
    for (int64_t row = 0; row < rows; ++row) {
      std::memcpy(static_cast<char*>(to) + row * to_pitch,
                  static_cast<const char*>(from) + row * from_pitch,
                  width);
    }
    return absl::OkStatus();
  });
}

}  // namespace device
}  // namespace paceline::kernels
