#include "worker/models/device/staging.h"

#include <algorithm>
#include <cstring>

#include "proto/support/status_macros.h"

namespace paceline::worker {
namespace {

constexpr int64_t kAlignment = 16;
constexpr int64_t kLeastRoom = 64 << 10;  // growing waits for the device

int64_t Aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

absl::StatusOr<std::unique_ptr<Staging>> Staging::Create(int64_t& workspace_bytes) {
  auto staging = std::unique_ptr<Staging>(new Staging(workspace_bytes));
  ASSIGN_OR_RETURN(staging->copied_, DeviceEvent::Create());
  return staging;
}

absl::Status Staging::Copy(kernels::device::Stream stream) {
  int64_t bytes = 0;
  for (const Piece& piece : pieces_) bytes += Aligned(piece.bytes);
  RETURN_IF_ERROR(copied_->Await());
  if (bytes > pinned_.bytes()) {
    RETURN_IF_ERROR(kernels::device::Synchronize(stream));  // what reads the old one
    const int64_t room = std::max({kLeastRoom, 2 * pinned_.bytes(), Aligned(bytes)});
    ASSIGN_OR_RETURN(pinned_, PinnedBuffer::Allocate(room));
    device_ = {};
    ++version_;
    ASSIGN_OR_RETURN(device_, DeviceBuffer::Allocate(room, workspace_bytes_));
  }
  int64_t offset = 0;
  for (const Piece& piece : pieces_) {
    if (piece.bytes > 0) std::memcpy(pinned_.as<char>() + offset, piece.from, piece.bytes);
    const char* const on_device = device_.as<char>() + offset;
    std::memcpy(piece.place, &on_device, sizeof(on_device));
    offset += Aligned(piece.bytes);
  }
  if (bytes == 0) return absl::OkStatus();
  RETURN_IF_ERROR(kernels::device::Copy(stream, device_.data(), pinned_.as<char>(), bytes));
  return copied_->Record(stream);
}

}  // namespace paceline::worker
