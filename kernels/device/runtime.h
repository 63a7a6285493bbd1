// What host code asks of the device's runtime: which devices there are, memory, streams, copies.
// Two bodies, one of which the build links: native/runtime.cc (CUDA) and kernels/emulation's, where
// work is done at once. No state but the calling thread's device; any thread.
//
// Errors. FailedPrecondition: no device can be used; the text says what is missing.
// ResourceExhausted: no memory. Unavailable: the device has failed, and everything that this
// process does with it will fail from now on. Internal: anything else, in CUDA's words.
#ifndef PACELINE_KERNELS_DEVICE_RUNTIME_H_
#define PACELINE_KERNELS_DEVICE_RUNTIME_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/stream.h"

namespace paceline::kernels::device {

struct DeviceInfo {
  int32_t index = 0;
  std::string name;  // "NVIDIA H200"
  std::string kind;  // "sm_90": devices of one kind compute the same bits
  int64_t total_bytes = 0;
  std::string pci_address;  // "0000:3B:00.0"; empty in the emulation
};

// Those that this build has code for; FailedPrecondition when there is none.
absl::StatusOr<std::vector<DeviceInfo>> ListDevices();

// Makes it the calling thread's. The functions below, and kernels, are about the thread's device.
absl::Status UseDevice(int32_t index);

struct MemoryInfo {
  int64_t free_bytes = 0;
  int64_t total_bytes = 0;
};
absl::StatusOr<MemoryInfo> ReadMemory();

// Memory of the device, and of the host where the device can reach it while the processor works.
absl::StatusOr<void*> Allocate(int64_t bytes);
void Free(void* memory);
absl::StatusOr<void*> AllocatePinned(int64_t bytes);
void FreePinned(void* memory);

// Memory of the thread's device that other processes of this host can reach, each with its own
// device. Freed by Free; those that have it say Unmap before.
struct SharedHandle {
  char bytes[128];
};
struct SharedMemory {
  void* memory = nullptr;
  SharedHandle handle;  // for any process
};
absl::StatusOr<SharedMemory> AllocateShared(int64_t bytes);
// Where the thread's device finds memory that another process, or another thread of this one, has
// allocated. The error says why it does not reach it.
absl::StatusOr<void*> Map(const SharedHandle& handle);
void Unmap(void* memory);

absl::StatusOr<Stream> CreateStream();
void DestroyStream(Stream stream);
// Returns when all work of the stream is done; its errors come out here.
absl::Status Synchronize(Stream stream);

// A place in a stream's work, and, of a timed one, when that was.
using Event = void*;
absl::StatusOr<Event> CreateEvent(bool timed);
void DestroyEvent(Event event);
absl::Status Record(Stream stream, Event event);
// Returns when the work before the event is done; at once when it was never recorded.
absl::Status Await(Event event);
// Whether Await would return at once.
absl::StatusOr<bool> IsDone(Event event);
// REQUIRES: both timed and done.
absl::StatusOr<int64_t> ElapsedNs(Event from, Event to);
// What is enqueued on the stream from now on begins after the event's work, of whatever stream.
absl::Status WaitFor(Stream stream, Event event);

// Work that a stream is given between the two calls, copies of device memory and kernels, is not
// done but kept, to be done any number of times with one call; memory is read and written where it
// was. Nothing may be waited for meanwhile.
using Graph = void*;
absl::Status BeginCapture(Stream stream);
absl::StatusOr<Graph> EndCapture(Stream stream);
absl::Status LaunchGraph(Stream stream, Graph graph);
void DestroyGraph(Graph graph);

// `rows` pieces of `width` bytes, their beginnings `to_pitch` and `from_pitch` bytes apart, between
// any two places of device and pinned memory.
absl::Status CopyRows(Stream stream,
                      void* to,
                      int64_t to_pitch,
                      const void* from,
                      int64_t from_pitch,
                      int64_t width,
                      int64_t rows);
inline absl::Status Copy(Stream stream, void* to, const void* from, int64_t bytes) {
  return CopyRows(stream, to, bytes, from, bytes, bytes, 1);
}

}  // namespace paceline::kernels::device

#endif  // PACELINE_KERNELS_DEVICE_RUNTIME_H_
