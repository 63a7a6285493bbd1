// Memory that the devices of a tensor group write to, for exchanges of few rows without NCCL
// (kernels/exchange/peers_device.h). Each rank allocates its part and maps those of the others.
// Owned by DeviceRanks; the thread whose device it is, and Stop by any.
#ifndef PACELINE_WORKER_MODELS_DEVICE_PEER_MEMORY_H_
#define PACELINE_WORKER_MODELS_DEVICE_PEER_MEMORY_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/device/runtime.h"
#include "kernels/exchange/peers_device.h"
#include "worker/device/device_memory.h"

namespace paceline::worker {

class PeerMemory {
 public:
  // This rank's part. `stream` is where the exchanges will be, and outlives the memory; a rank
  // gives at most `piece_bytes` to one, the same for all. REQUIRES: 0 <= rank < size <=
  // kernels::kMaxPeers.
  static absl::StatusOr<std::unique_ptr<PeerMemory>> Create(kernels::device::Stream stream,
                                                            int rank,
                                                            int size,
                                                            int64_t piece_bytes);
  // Waits for what uses it, which ends: nobody waits for peers any more. Others may have this
  // rank's part mapped, but no work of theirs writes to it once all of this rank's exchanges are
  // done or a peer is gone.
  ~PeerMemory();
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;

  // What others map, and where all are. The error names the rank that cannot be reached.
  const kernels::device::SharedHandle& handle() const { return own_.handle; }
  absl::Status Connect(absl::Span<const kernels::device::SharedHandle> handles);  // [size]

  // Kernels that wait for peers, now or later, go on with whatever there is.
  void Stop();

  int64_t piece_bytes() const { return peers_.piece_bytes; }
  // REQUIRES: Connect.
  const kernels::DevicePeers& peers() const { return peers_; }

 private:
  explicit PeerMemory(kernels::device::Stream stream) : stream_(stream) {}
  void SetPlace(int rank, void* memory);

  const kernels::device::Stream stream_;
  kernels::device::SharedMemory own_;
  std::vector<void*> mapped_;
  PinnedBuffer stop_;
  kernels::DevicePeers peers_{};
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_DEVICE_PEER_MEMORY_H_
