// Ranks of a stage exchange device memory: over NCCL, and for few rows over memory that their
// devices share, enqueued on the stream; or through memory of their hosts, with any communicator,
// which waits for what is enqueued before. The bits are the same. Owned by the model; the thread
// whose device it is.
#ifndef PACELINE_WORKER_MODELS_DEVICE_EXCHANGE_H_
#define PACELINE_WORKER_MODELS_DEVICE_EXCHANGE_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/device/stream.h"
#include "kernels/exchange/peers_device.h"
#include "proto/support/status_macros.h"
#include "worker/comm/communicator.h"
#include "worker/comm/nccl_communicator.h"
#include "worker/device/device_memory.h"
#include "worker/layers/shares.h"
#include "worker/models/device/exchange_timer.h"
#include "worker/models/device/peer_memory.h"

namespace paceline::worker {

class Exchange {
 public:
  struct Options {
    int64_t matrix_bytes = 0;  // of the largest matrix
    // NCCL's: of the widest part of such a matrix that a rank gives.
    int64_t piece_bytes = 0;
    // Of the ranks that share every layer, and outlives the exchange; null: through the hosts.
    NcclCommunicator* nccl = nullptr;
    // Of the same ranks, and the same; null: NCCL takes few rows, too.
    PeerMemory* peers = nullptr;
    // Of exchanges that the host has no part in. Outlives the exchange; null: none.
    ExchangeTimer* timer = nullptr;
  };
  static absl::StatusOr<std::unique_ptr<Exchange>> Create(kernels::device::Stream stream,
                                                          const Options& options,
                                                          int64_t& workspace_bytes);

  // `own`, [rows, shares.size()], of each rank side by side in `all`, [rows, shares.total()].
  absl::Status GatherColumns(Communicator& comm,
                             const Shares& shares,
                             int64_t rows,
                             int64_t element_bytes,
                             const void* own,
                             void* all);
  // The same where `all` has this rank's columns already, of float32, and `norm` of its rows.
  absl::Status GatherColumnsInPlace(Communicator& comm,
                                    const Shares& shares,
                                    int64_t rows,
                                    float* all,
                                    const kernels::DevicePeerNorm& norm);
  // data[i] becomes the sum of all ranks' data[i], in order of rank; and `norm` of its rows.
  absl::Status Sum(Communicator& comm,
                   float* data,  // [rows, cols]
                   int64_t rows,
                   int64_t cols,
                   const kernels::DevicePeerNorm& norm);
  absl::Status Sum(Communicator& comm, int32_t* data, int64_t count);

 private:
  Exchange(kernels::device::Stream stream, const Options& options)
      : stream_(stream), options_(options) {}

  template <typename F>
  absl::Status Timed(F exchange) {
    if (options_.timer == nullptr) return exchange();
    RETURN_IF_ERROR(options_.timer->Mark());
    RETURN_IF_ERROR(exchange());
    return options_.timer->Mark();
  }
  bool FitsPeers(int64_t piece_bytes) const {
    return options_.peers != nullptr && piece_bytes <= options_.peers->piece_bytes();
  }
  // Rows `from_pitch` bytes apart.
  absl::Status Gather(Communicator& comm,
                      const Shares& shares,
                      int64_t rows,
                      int64_t element_bytes,
                      const void* from,
                      int64_t from_pitch,
                      void* all);
  absl::Status GatherByPeers(const Shares& shares,
                             int64_t rows,
                             int64_t element_bytes,
                             const void* from,
                             int64_t from_pitch,
                             void* all,
                             const kernels::DevicePeerNorm& norm);
  absl::Status GatherByNccl(const Shares& shares,
                            int64_t rows,
                            int64_t element_bytes,
                            const void* from,
                            int64_t from_pitch,
                            void* all);
  absl::Status SumByNccl(float* data, int64_t count);
  template <typename T>
  absl::Status SumOnHost(Communicator& comm, T* data, int64_t count);
  absl::Status Norm(float* x, int64_t rows, int64_t cols, const kernels::DevicePeerNorm& norm);

  const kernels::device::Stream stream_;
  const Options options_;
  PinnedBuffer host_;    // through the hosts: [matrix_bytes]
  DeviceBuffer pieces_;  // over NCCL: [ranks, piece_bytes]
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_DEVICE_EXCHANGE_H_
