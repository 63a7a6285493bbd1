// Small arrays of the host on their way to the device: laid out in pinned memory and copied in one
// piece. Owned by who uses them; the thread whose device it is.
#ifndef PACELINE_WORKER_MODELS_DEVICE_STAGING_H_
#define PACELINE_WORKER_MODELS_DEVICE_STAGING_H_

#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/device/device_memory.h"

namespace paceline::worker {

class Staging {
 public:
  // `workspace_bytes` has the device's memory added; it outlives the staging.
  static absl::StatusOr<std::unique_ptr<Staging>> Create(int64_t& workspace_bytes);

  void Clear() { pieces_.clear(); }
  // `values` stay until Copy, which sets `place` to where they are on the device: a multiple of 16.
  template <typename T>
  void Add(absl::Span<const std::remove_const_t<T>> values, T*& place) {
    pieces_.push_back({values.data(), static_cast<int64_t>(values.size() * sizeof(T)), &place});
  }
  // Enqueues the copy of all that was added. What is on the device is valid until the next one.
  absl::Status Copy(kernels::device::Stream stream);
  // Grows when places moved although pieces of the same sizes were added.
  int64_t version() const { return version_; }

 private:
  explicit Staging(int64_t& workspace_bytes) : workspace_bytes_(workspace_bytes) {}

  struct Piece {
    const void* from;
    int64_t bytes;
    void* place;  // a pointer
  };

  int64_t& workspace_bytes_;
  std::vector<Piece> pieces_;
  PinnedBuffer pinned_;
  DeviceBuffer device_;
  int64_t version_ = 0;
  std::unique_ptr<DeviceEvent> copied_;  // pinned_ may be written again
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_DEVICE_STAGING_H_
