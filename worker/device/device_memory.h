// Memory, streams and events of a device, each returned by its owner's destructor. What is used of
// the device's memory is counted by purpose. Owned by the model that runs on the device; one
// thread, whose device it is (kernels/device/runtime.h).
#ifndef PACELINE_WORKER_DEVICE_DEVICE_MEMORY_H_
#define PACELINE_WORKER_DEVICE_DEVICE_MEMORY_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "kernels/device/runtime.h"

namespace paceline::worker {

// Bytes of a device's memory by purpose.
struct DeviceMemoryUse {
  int64_t weights = 0;
  int64_t kv_cache = 0;
  int64_t workspace = 0;
};

class DeviceBuffer {
 public:
  DeviceBuffer() = default;  // empty
  // `count` (of `use`) has the bytes added while the buffer lives; it outlives the buffer.
  // ResourceExhausted names the bytes that there are not.
  static absl::StatusOr<DeviceBuffer> Allocate(int64_t bytes, int64_t& count);

  template <typename T>
  T* as() const {
    return static_cast<T*>(memory_.get());
  }
  void* data() const { return memory_.get(); }
  int64_t bytes() const { return memory_ == nullptr ? 0 : memory_.get_deleter().bytes; }

 private:
  struct Deleter {
    void operator()(void* memory) const {
      kernels::device::Free(memory);
      *count -= bytes;
    }
    int64_t bytes;
    int64_t* count;
  };
  std::unique_ptr<void, Deleter> memory_;
};

// Memory of the host that the device copies from and to while the processor works.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;  // empty
  static absl::StatusOr<PinnedBuffer> Allocate(int64_t bytes);

  template <typename T>
  T* as() const {
    return static_cast<T*>(memory_.get());
  }
  int64_t bytes() const { return bytes_; }

 private:
  struct Deleter {
    void operator()(void* memory) const { kernels::device::FreePinned(memory); }
  };
  std::unique_ptr<void, Deleter> memory_;
  int64_t bytes_ = 0;
};

class DeviceStream {
 public:
  static absl::StatusOr<std::unique_ptr<DeviceStream>> Create();
  ~DeviceStream() { kernels::device::DestroyStream(stream_); }
  DeviceStream(const DeviceStream&) = delete;
  DeviceStream& operator=(const DeviceStream&) = delete;

  kernels::device::Stream get() const { return stream_; }

 private:
  explicit DeviceStream(kernels::device::Stream stream) : stream_(stream) {}
  const kernels::device::Stream stream_;
};

class DeviceEvent {
 public:
  static absl::StatusOr<std::unique_ptr<DeviceEvent>> Create(bool timed = false);
  ~DeviceEvent() { kernels::device::DestroyEvent(event_); }
  DeviceEvent(const DeviceEvent&) = delete;
  DeviceEvent& operator=(const DeviceEvent&) = delete;

  absl::Status Record(kernels::device::Stream stream) {
    return kernels::device::Record(stream, event_);
  }
  absl::Status Await() { return kernels::device::Await(event_); }
  absl::StatusOr<bool> IsDone() const { return kernels::device::IsDone(event_); }
  kernels::device::Event get() const { return event_; }

 private:
  explicit DeviceEvent(kernels::device::Event event) : event_(event) {}
  const kernels::device::Event event_;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_DEVICE_DEVICE_MEMORY_H_
