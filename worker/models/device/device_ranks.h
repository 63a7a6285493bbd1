// How the ranks of a replica reach each other's devices: NCCL's groups, where every rank has a
// device of its own and the library is there, and for few rows memory that the devices of a stage
// write to, where those of all stages can. Owned by the model; the thread whose device it is.
#ifndef PACELINE_WORKER_MODELS_DEVICE_DEVICE_RANKS_H_
#define PACELINE_WORKER_MODELS_DEVICE_DEVICE_RANKS_H_

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/device/stream.h"
#include "worker/comm/communicator.h"
#include "worker/comm/nccl_communicator.h"
#include "worker/device/device_memory.h"
#include "worker/models/device/peer_memory.h"
#include "worker/models/partition.h"
#include "worker/models/registry.h"

namespace paceline::worker {

class DeviceRanks {
 public:
  // Called by all ranks of `replica`, which outlives what is made; returns when all have. Null on
  // all of them when one cannot: ranks then exchange through their hosts' memory. Rank 0 logs which
  // and why. `stream`, where the model's exchanges will be, outlives it, too. Errors: the
  // communicators'.
  static absl::StatusOr<std::unique_ptr<DeviceRanks>> Form(kernels::device::Stream stream,
                                                           const DevicePlace& device,
                                                           const RankPlace& place,
                                                           Communicator& replica);

  // Ranks that share every layer, in order; null: this one alone.
  NcclCommunicator* tensor() const { return tensor_; }
  // The same ranks' memory; null: they have none between them.
  PeerMemory* peers() const { return peers_.get(); }
  // This rank and the one with its share of the stage before, or after; null: there is none.
  NcclCommunicator* before() const { return before_; }
  NcclCommunicator* after() const { return after_; }

  // As Synchronize, but ends when a peer does.
  absl::Status Await(kernels::device::Stream stream);
  // The same of the stream's work before Mark; at once without one.
  absl::Status Mark(kernels::device::Stream stream) { return marked_->Record(stream); }
  absl::Status AwaitMark();

 private:
  DeviceRanks(std::shared_ptr<const NcclLibrary> library, Communicator& replica)
      : session_(std::move(library), replica) {}
  absl::Status AwaitEvent(const DeviceEvent& event);

  std::unique_ptr<PeerMemory> peers_;  // waits for the stream when the session has ended
  NcclSession session_;
  NcclCommunicator* tensor_ = nullptr;
  NcclCommunicator* before_ = nullptr;
  NcclCommunicator* after_ = nullptr;
  std::unique_ptr<DeviceEvent> awaited_;
  std::unique_ptr<DeviceEvent> marked_;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_DEVICE_DEVICE_RANKS_H_
