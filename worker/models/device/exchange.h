// Ranks of a stage exchange device memory through memory of their hosts, with any communicator.
// Owned by the model; the thread whose device it is. What is enqueued on the stream before a call
// is waited for.
#ifndef PACELINE_WORKER_MODELS_DEVICE_EXCHANGE_H_
#define PACELINE_WORKER_MODELS_DEVICE_EXCHANGE_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/device/stream.h"
#include "worker/comm/communicator.h"
#include "worker/device/device_memory.h"
#include "worker/layers/shares.h"

namespace paceline::worker {

class Exchange {
 public:
  // `bytes`: of the largest matrix.
  static absl::StatusOr<std::unique_ptr<Exchange>> Create(kernels::device::Stream stream,
                                                          int64_t bytes);

  // `own`, [rows, shares.size()], of each rank side by side in `all`, [rows, shares.total()].
  absl::Status GatherColumns(Communicator& comm,
                             const Shares& shares,
                             int64_t rows,
                             int64_t element_bytes,
                             const void* own,
                             void* all);
  // The same where `all` has this rank's columns already.
  absl::Status GatherColumnsInPlace(
      Communicator& comm, const Shares& shares, int64_t rows, int64_t element_bytes, void* all);
  // data[i] becomes the sum of all ranks' data[i], in order of rank.
  template <typename T>
  absl::Status Sum(Communicator& comm, T* data, int64_t count);

 private:
  explicit Exchange(kernels::device::Stream stream) : stream_(stream) {}

  // Rows `from_pitch` bytes apart.
  absl::Status Gather(Communicator& comm,
                      const Shares& shares,
                      int64_t rows,
                      int64_t element_bytes,
                      const void* from,
                      int64_t from_pitch,
                      void* all);

  const kernels::device::Stream stream_;
  PinnedBuffer host_;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_DEVICE_EXCHANGE_H_
