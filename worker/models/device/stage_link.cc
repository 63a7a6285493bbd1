#include "worker/models/device/stage_link.h"

#include "absl/strings/str_cat.h"
#include "kernels/device/runtime.h"
#include "proto/support/status_macros.h"

namespace paceline::worker {

namespace device = kernels::device;

absl::StatusOr<std::unique_ptr<StageLink>> StageLink::Create(NcclCommunicator& nccl,
                                                             int64_t max_bytes,
                                                             int64_t& workspace_bytes) {
  auto link = std::unique_ptr<StageLink>(new StageLink(nccl));
  ASSIGN_OR_RETURN(link->stream_, DeviceStream::Create());
  for (Slot& slot : link->slots_) {
    ASSIGN_OR_RETURN(slot.buffer, DeviceBuffer::Allocate(max_bytes, workspace_bytes));
    ASSIGN_OR_RETURN(slot.filled, DeviceEvent::Create());
    ASSIGN_OR_RETURN(slot.taken, DeviceEvent::Create());
  }
  return link;
}

absl::StatusOr<StageLink::Slot*> StageLink::NextSlot(int64_t bytes) {
  Slot& slot = slots_[next_];
  next_ = 1 - next_;
  if (bytes <= slot.buffer.bytes()) return &slot;
  return absl::InvalidArgumentError(
      absl::StrCat("stages: ", bytes, " bytes, ", slot.buffer.bytes(), " were reserved"));
}

absl::Status StageLink::Send(device::Stream stream, const void* data, int64_t bytes) {
  ASSIGN_OR_RETURN(Slot* const slot, NextSlot(bytes));
  RETURN_IF_ERROR(device::WaitFor(stream, slot->taken->get()));
  RETURN_IF_ERROR(device::Copy(stream, slot->buffer.data(), data, bytes));
  RETURN_IF_ERROR(slot->filled->Record(stream));
  RETURN_IF_ERROR(device::WaitFor(stream_->get(), slot->filled->get()));
  RETURN_IF_ERROR(nccl_.Send(slot->buffer.data(), bytes, 1 - nccl_.rank(), stream_->get()));
  return slot->taken->Record(stream_->get());
}

absl::Status StageLink::Receive(device::Stream stream, void* data, int64_t bytes) {
  ASSIGN_OR_RETURN(Slot* const slot, NextSlot(bytes));
  RETURN_IF_ERROR(device::WaitFor(stream_->get(), slot->taken->get()));
  RETURN_IF_ERROR(nccl_.Recv(slot->buffer.data(), bytes, 1 - nccl_.rank(), stream_->get()));
  RETURN_IF_ERROR(slot->filled->Record(stream_->get()));
  RETURN_IF_ERROR(device::WaitFor(stream, slot->filled->get()));
  RETURN_IF_ERROR(device::Copy(stream, data, slot->buffer.data(), bytes));
  return slot->taken->Record(stream);
}

}  // namespace paceline::worker
