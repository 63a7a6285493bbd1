#include "worker/device/device_memory.h"

#include "absl/strings/str_cat.h"
#include "proto/support/status_macros.h"

namespace paceline::worker {

absl::StatusOr<DeviceBuffer> DeviceBuffer::Allocate(int64_t bytes, int64_t& count) {
  absl::StatusOr<void*> memory = kernels::device::Allocate(bytes);
  if (absl::IsResourceExhausted(memory.status())) {
    const absl::StatusOr<kernels::device::MemoryInfo> info = kernels::device::ReadMemory();
    return absl::ResourceExhaustedError(
        absl::StrCat("out of GPU memory: ",
                     bytes,
                     " bytes are wanted",
                     info.ok() ? absl::StrCat(", ", info->free_bytes, " are free") : ""));
  }
  RETURN_IF_ERROR(memory.status());
  DeviceBuffer buffer;
  buffer.memory_ = {*memory, Deleter{bytes, &count}};
  count += bytes;
  return buffer;
}

absl::StatusOr<PinnedBuffer> PinnedBuffer::Allocate(int64_t bytes) {
  PinnedBuffer buffer;
  ASSIGN_OR_RETURN(void* const memory, kernels::device::AllocatePinned(bytes));
  buffer.memory_.reset(memory);
  buffer.bytes_ = bytes;
  return buffer;
}

absl::StatusOr<std::unique_ptr<DeviceStream>> DeviceStream::Create() {
  ASSIGN_OR_RETURN(const kernels::device::Stream stream, kernels::device::CreateStream());
  return std::unique_ptr<DeviceStream>(new DeviceStream(stream));
}

absl::StatusOr<std::unique_ptr<DeviceEvent>> DeviceEvent::Create(bool timed) {
  ASSIGN_OR_RETURN(const kernels::device::Event event, kernels::device::CreateEvent(timed));
  return std::unique_ptr<DeviceEvent>(new DeviceEvent(event));
}

}  // namespace paceline::worker
