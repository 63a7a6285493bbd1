// How hidden states go from one pipeline stage's device to the next one's: over NCCL, on streams of
// their own, with two buffers each way, so that a stage sends one batch while it computes another.
// Owned by the model; the thread whose device it is. Returns at once but for NCCL's own delays.
#ifndef PACELINE_WORKER_MODELS_DEVICE_STAGE_LINK_H_
#define PACELINE_WORKER_MODELS_DEVICE_STAGE_LINK_H_

#include <array>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/device/stream.h"
#include "worker/comm/nccl_communicator.h"
#include "worker/device/device_memory.h"

namespace paceline::worker {

// One direction: to the stage after, or from the one before. A group of two ranks, the earlier
// stage's first.
class StageLink {
 public:
  // `nccl` outlives the link; `max_bytes` of a batch.
  static absl::StatusOr<std::unique_ptr<StageLink>> Create(NcclCommunicator& nccl,
                                                           int64_t max_bytes,
                                                           int64_t& workspace_bytes);

  // Takes over what `data` is at this point of the stream's work, which may then go on to change
  // it. All batches that one side sends the other receives, in the same order and sizes.
  absl::Status Send(kernels::device::Stream stream, const void* data, int64_t bytes);
  // As part of the stream's work.
  absl::Status Receive(kernels::device::Stream stream, void* data, int64_t bytes);

 private:
  struct Slot {
    DeviceBuffer buffer;                  // [max_bytes]
    std::unique_ptr<DeviceEvent> filled;  // the buffer has its data
    std::unique_ptr<DeviceEvent> taken;   // it may be filled again
  };

  explicit StageLink(NcclCommunicator& nccl) : nccl_(nccl) {}
  absl::StatusOr<Slot*> NextSlot(int64_t bytes);

  NcclCommunicator& nccl_;
  std::unique_ptr<DeviceStream> stream_;
  std::array<Slot, 2> slots_;
  size_t next_ = 0;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_DEVICE_STAGE_LINK_H_
