#include "kernels/emulation/runtime.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
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
struct Allocation {
  int64_t bytes;
  int fd;  // of what is shared; else -1
};
std::unordered_map<void*, Allocation> g_allocations;
std::unordered_map<void*, int64_t> g_mapped;  // bytes
int64_t g_allocated = 0;
int64_t g_total = int64_t{1} << 30;
std::atomic<int64_t> g_num_graph_starts{0};
int32_t g_num_devices = 1;

std::atomic<bool> g_streams_async = false;
std::atomic<bool> g_fail_next_map = false;

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

void SetStreamsAsync(bool async) { g_streams_async = async; }

void FailNextMap() { g_fail_next_map = true; }

void BreakDevice() { g_broken = true; }

}  // namespace emulation

namespace device {
namespace {

absl::Status OutOfMemory() { return absl::ResourceExhaustedError("out of GPU memory"); }

// The address is then a multiple of 16, as what vector loads are given must be.
int64_t WholeUnits(int64_t bytes) { return (bytes + 15) / 16 * 16; }

struct EmulatedHandle {
  int64_t pid;
  int64_t fd;
  int64_t bytes;
  char unused[sizeof(SharedHandle) - 24];
};

// How far a stream with a thread is. Outlives the stream where events need it.
struct Progress {
  void AwaitDone(int64_t number) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return done >= number; });
  }

  std::mutex mutex;
  std::condition_variable changed;
  int64_t submitted = 0;  // guarded by mutex, as what follows
  int64_t done = 0;
  absl::Status status;  // of the first work that failed; the rest is not done
};

class StreamThread {
 public:
  StreamThread() : thread_([this] { Run(); }) {}
  ~StreamThread() {
    Submit(nullptr);
    thread_.join();
  }

  void Submit(emulation::Work work) {
    const std::lock_guard lock(progress_->mutex);
    works_.push_back(std::move(work));
    ++progress_->submitted;
    progress_->changed.notify_all();
  }
  const std::shared_ptr<Progress>& progress() const { return progress_; }

 private:
  void Run() {
    for (;;) {
      std::unique_lock lock(progress_->mutex);
      progress_->changed.wait(lock, [this] { return !works_.empty(); });
      const emulation::Work work = std::move(works_.front());
      works_.pop_front();
      if (work == nullptr) return;
      if (progress_->status.ok()) {
        lock.unlock();
        absl::Status status = work();
        lock.lock();
        progress_->status = std::move(status);
      }
      ++progress_->done;
      progress_->changed.notify_all();
    }
  }

  const std::shared_ptr<Progress> progress_ = std::make_shared<Progress>();
  std::deque<emulation::Work> works_;  // guarded by progress_->mutex
  std::thread thread_;
};

struct EmulatedEvent {
  std::shared_ptr<Progress> progress;  // null: done when it was recorded
  int64_t number = 0;
  std::shared_ptr<std::atomic<int64_t>> done_ns = std::make_shared<std::atomic<int64_t>>(0);
};

EmulatedEvent& Get(Event event) { return *static_cast<EmulatedEvent*>(event); }

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
  if (bytes > g_total - g_allocated) return OutOfMemory();
  const int64_t size = WholeUnits(bytes);
  void* const memory = emulation::Allocate(size);
  g_allocations[memory] = {size, -1};
  g_allocated += size;
  return memory;
}

void Free(void* memory) {
  if (memory == nullptr) return;
  const std::lock_guard lock(g_mutex);
  const auto found = g_allocations.find(memory);
  if (found == g_allocations.end()) std::abort();
  const auto [bytes, fd] = found->second;
  emulation::Free(memory, bytes);
  if (fd >= 0) close(fd);
  g_allocated -= bytes;
  g_allocations.erase(found);
}

absl::StatusOr<SharedMemory> AllocateShared(int64_t bytes) {
  const std::lock_guard lock(g_mutex);
  if (bytes > g_total - g_allocated) return OutOfMemory();
  const int64_t size = WholeUnits(bytes);
  int fd = -1;
  void* const memory = emulation::AllocateShared(size, fd);
  g_allocations[memory] = {size, fd};
  g_allocated += size;
  const EmulatedHandle handle{.pid = getpid(), .fd = fd, .bytes = size};
  SharedMemory shared{.memory = memory, .handle = {}};
  std::memcpy(shared.handle.bytes, &handle, sizeof(handle));
  return shared;
}

absl::StatusOr<void*> Map(const SharedHandle& shared) {
  if (g_fail_next_map.exchange(false)) {
    return absl::FailedPreconditionError("the device has no way to it");
  }
  const auto handle = std::bit_cast<EmulatedHandle>(shared);
  const std::string path = absl::StrCat("/proc/", handle.pid, "/fd/", handle.fd);
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  void* const memory = fd < 0 ? nullptr : emulation::MapShared(fd, handle.bytes);
  if (fd >= 0) close(fd);
  if (memory == nullptr) return absl::InternalError(absl::StrCat("there is no ", path));
  const std::lock_guard lock(g_mutex);
  g_mapped[memory] = handle.bytes;
  return memory;
}

void Unmap(void* memory) {
  const std::lock_guard lock(g_mutex);
  const auto found = g_mapped.find(memory);
  if (found == g_mapped.end()) std::abort();
  emulation::Free(memory, found->second);
  g_mapped.erase(found);
}

absl::StatusOr<void*> AllocatePinned(int64_t bytes) { return std::malloc(bytes); }
void FreePinned(void* memory) { std::free(memory); }

absl::StatusOr<Stream> CreateStream() { return g_streams_async ? new StreamThread() : nullptr; }
void DestroyStream(Stream stream) { delete static_cast<StreamThread*>(stream); }
absl::Status Synchronize(Stream stream) {
  if (g_broken) return Broken();
  if (stream == nullptr) return CheckNotCapturing();
  Progress& progress = *static_cast<StreamThread*>(stream)->progress();
  std::unique_lock lock(progress.mutex);
  progress.changed.wait(lock, [&] { return progress.done == progress.submitted; });
  return progress.status;
}
absl::StatusOr<Event> CreateEvent(bool) { return new EmulatedEvent(); }
void DestroyEvent(Event event) { delete static_cast<EmulatedEvent*>(event); }
absl::Status Record(Stream stream, Event event) {
  Get(event).progress = nullptr;
  const auto set_time = [done_ns = Get(event).done_ns] {
    *done_ns = std::chrono::steady_clock::now().time_since_epoch().count();
    return absl::OkStatus();
  };
  if (stream == nullptr) return set_time();
  if (absl::Status status = emulation::DoOrCapture(stream, set_time); !status.ok()) return status;
  Get(event).progress = static_cast<StreamThread*>(stream)->progress();
  const std::lock_guard lock(Get(event).progress->mutex);
  Get(event).number = Get(event).progress->submitted;
  return absl::OkStatus();
}
absl::StatusOr<int64_t> ElapsedNs(Event from, Event to) {
  return *Get(to).done_ns - *Get(from).done_ns;
}
absl::Status Await(Event event) {
  if (Get(event).progress != nullptr) Get(event).progress->AwaitDone(Get(event).number);
  return CheckNotCapturing();
}
absl::StatusOr<bool> IsDone(Event event) {
  if (Get(event).progress == nullptr) return true;
  const std::lock_guard lock(Get(event).progress->mutex);
  if (!Get(event).progress->status.ok()) return Get(event).progress->status;
  return Get(event).progress->done >= Get(event).number;
}
absl::Status WaitFor(Stream stream, Event event) {
  const EmulatedEvent awaited = Get(event);
  if (awaited.progress == nullptr) return absl::OkStatus();
  return emulation::DoOrCapture(stream, [awaited] {
    awaited.progress->AwaitDone(awaited.number);
    return absl::OkStatus();
  });
}

absl::Status BeginCapture(Stream) {
  if (absl::Status status = CheckNotCapturing(); !status.ok()) return status;
  emulation::t_captured = new emulation::Captured;
  return absl::OkStatus();
}

absl::StatusOr<Graph> EndCapture(Stream) {
  if (emulation::t_captured == nullptr) return absl::InternalError("nothing is captured");
  return std::exchange(emulation::t_captured, nullptr);
}

absl::Status LaunchGraph(Stream stream, Graph graph) {
  ++g_num_graph_starts;
  for (const emulation::Work& work : *static_cast<emulation::Captured*>(graph)) {
    if (absl::Status status = emulation::DoOrCapture(stream, work); !status.ok()) return status;
  }
  return absl::OkStatus();
}

void DestroyGraph(Graph graph) { delete static_cast<emulation::Captured*>(graph); }

absl::Status CopyRows(Stream stream,
                      void* to,
                      int64_t to_pitch,
                      const void* from,
                      int64_t from_pitch,
                      int64_t width,
                      int64_t rows) {
  if (g_broken) return Broken();
  return emulation::DoOrCapture(stream, [=] {
    for (int64_t row = 0; row < rows; ++row) {
      std::memcpy(static_cast<char*>(to) + row * to_pitch,
                  static_cast<const char*>(from) + row * from_pitch,
                  width);
    }
    return absl::OkStatus();
  });
}

}  // namespace device

namespace emulation {

void Submit(device::Stream stream, Work work) {
  static_cast<device::StreamThread*>(stream)->Submit(std::move(work));
}

}  // namespace emulation
}  // namespace paceline::kernels
