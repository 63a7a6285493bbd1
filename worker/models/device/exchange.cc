#include "worker/models/device/exchange.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/exchange/pieces_device.h"
#include "kernels/norm/rms_norm_device.h"
#include "proto/support/status_macros.h"

namespace paceline::worker {

namespace device = kernels::device;

absl::StatusOr<std::unique_ptr<Exchange>> Exchange::Create(device::Stream stream,
                                                           const Options& options,
                                                           int64_t& workspace_bytes) {
  auto exchange = std::unique_ptr<Exchange>(new Exchange(stream, options));
  if (options.nccl == nullptr) {
    ASSIGN_OR_RETURN(exchange->host_, PinnedBuffer::Allocate(options.matrix_bytes));
  } else {
    ASSIGN_OR_RETURN(
        exchange->pieces_,
        DeviceBuffer::Allocate(options.nccl->size() * options.piece_bytes, workspace_bytes));
  }
  return exchange;
}

absl::Status Exchange::GatherColumns(Communicator& comm,
                                     const Shares& shares,
                                     int64_t rows,
                                     int64_t element_bytes,
                                     const void* own,
                                     void* all) {
  const int64_t pitch = shares.size() * element_bytes;
  return Timed([&] {
    return FitsPeers(rows * shares.largest() * element_bytes)
               ? GatherByPeers(shares, rows, element_bytes, own, pitch, all, {})
               : Gather(comm, shares, rows, element_bytes, own, pitch, all);
  });
}

absl::Status Exchange::GatherColumnsInPlace(Communicator& comm,
                                            const Shares& shares,
                                            int64_t rows,
                                            float* all,
                                            const kernels::DevicePeerNorm& norm) {
  constexpr int64_t kBytes = sizeof(float);
  const float* const own = all + shares.begin();
  const int64_t pitch = shares.total() * kBytes;
  if (FitsPeers(rows * shares.largest() * kBytes)) {
    return Timed([&] { return GatherByPeers(shares, rows, kBytes, own, pitch, all, norm); });
  }
  RETURN_IF_ERROR(Timed([&] { return Gather(comm, shares, rows, kBytes, own, pitch, all); }));
  return Norm(all, rows, shares.total(), norm);
}

absl::Status Exchange::Gather(Communicator& comm,
                              const Shares& shares,
                              int64_t rows,
                              int64_t element_bytes,
                              const void* from,
                              int64_t from_pitch,
                              void* all) {
  if (options_.nccl != nullptr) {
    return GatherByNccl(shares, rows, element_bytes, from, from_pitch, all);
  }
  const int64_t pitch = shares.total() * element_bytes;
  char* const host = host_.as<char>();
  RETURN_IF_ERROR(device::CopyRows(stream_,
                                   host + shares.begin() * element_bytes,
                                   pitch,
                                   from,
                                   from_pitch,
                                   shares.size() * element_bytes,
                                   rows));
  RETURN_IF_ERROR(device::Synchronize(stream_));
  std::vector<int64_t> ends = shares.ends();
  for (int64_t& end : ends) end *= element_bytes;
  RETURN_IF_ERROR(comm.AllGatherColumns(host, rows, pitch, ends));
  // The next exchange waits for the stream before it writes to the host's memory again.
  return device::Copy(stream_, all, host, rows * pitch);
}

absl::Status Exchange::GatherByPeers(const Shares& shares,
                                     int64_t rows,
                                     int64_t element_bytes,
                                     const void* from,
                                     int64_t from_pitch,
                                     void* all,
                                     const kernels::DevicePeerNorm& norm) {
  kernels::DevicePeerGatherArgs args{.peers = options_.peers->peers(),
                                     .own = from,
                                     .own_pitch = from_pitch,
                                     .all = all,
                                     .rows = rows,
                                     .norm = norm};
  for (int rank = 0; rank < args.peers.num_ranks; ++rank) {
    args.end_bytes[rank] = shares.ends()[rank] * element_bytes;
  }
  return kernels::DevicePeerGather(stream_, args);
}

// All pieces are as large as the widest rank's: one collective, of which NCCL has the fastest
// variants, for a few bytes more where columns do not divide evenly.
absl::Status Exchange::GatherByNccl(const Shares& shares,
                                    int64_t rows,
                                    int64_t element_bytes,
                                    const void* from,
                                    int64_t from_pitch,
                                    void* all) {
  const int64_t width = shares.size() * element_bytes;
  const int64_t widest = shares.largest() * element_bytes;
  const int64_t piece = rows * widest;
  NcclCommunicator& nccl = *options_.nccl;
  if (piece > options_.piece_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "exchange: pieces of ", piece, " bytes, ", options_.piece_bytes, " were reserved"));
  }
  const bool is_even = widest * nccl.size() == shares.total() * element_bytes;
  if (rows == 1 && is_even) return nccl.AllGather(from, all, piece, stream_);
  char* const pieces = pieces_.as<char>();
  if (width != widest || (width != from_pitch && rows > 1)) {
    char* const own = pieces + nccl.rank() * piece;
    RETURN_IF_ERROR(device::CopyRows(stream_, own, width, from, from_pitch, width, rows));
    from = own;
  }
  RETURN_IF_ERROR(nccl.AllGather(from, pieces, piece, stream_));
  kernels::DevicePlaceColumnsArgs args{
      .pieces = pieces, .piece_bytes = piece, .all = all, .rows = rows, .num_ranks = nccl.size()};
  for (int rank = 0; rank < nccl.size(); ++rank) {
    args.end_bytes[rank] = shares.ends()[rank] * element_bytes;
  }
  return kernels::DevicePlaceColumns(stream_, args);
}

absl::Status Exchange::Sum(Communicator& comm,
                           float* data,
                           int64_t rows,
                           int64_t cols,
                           const kernels::DevicePeerNorm& norm) {
  if (FitsPeers(rows * cols * static_cast<int64_t>(sizeof(float)))) {
    const kernels::DevicePeerSumArgs args{
        .peers = options_.peers->peers(), .x = data, .rows = rows, .cols = cols, .norm = norm};
    return Timed([&] { return kernels::DevicePeerSum(stream_, args); });
  }
  RETURN_IF_ERROR(Timed([&] {
    return options_.nccl == nullptr ? SumOnHost(comm, data, rows * cols)
                                    : SumByNccl(data, rows * cols);
  }));
  return Norm(data, rows, cols, norm);
}

// NCCL would add in an order of its own, which depends on the size of the batch: a request's bits
// would depend on others. So it brings the parts, and every rank adds them.
absl::Status Exchange::SumByNccl(float* data, int64_t count) {
  const int64_t bytes = count * static_cast<int64_t>(sizeof(float));
  if (bytes > options_.piece_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "exchange: sums of ", bytes, " bytes, ", options_.piece_bytes, " were reserved"));
  }
  RETURN_IF_ERROR(options_.nccl->AllGather(data, pieces_.data(), bytes, stream_));
  return kernels::DeviceSumPieces(
      stream_, pieces_.as<const float>(), options_.nccl->size(), count, data);
}

absl::Status Exchange::Sum(Communicator& comm, int32_t* data, int64_t count) {
  return Timed([&] {
    if (FitsPeers(count * static_cast<int64_t>(sizeof(int32_t)))) {
      return kernels::DevicePeerSum(stream_, options_.peers->peers(), data, count);
    }
    if (options_.nccl == nullptr) return SumOnHost(comm, data, count);
    return options_.nccl->AllReduceSum(data, count, stream_);
  });
}

template <typename T>
absl::Status Exchange::SumOnHost(Communicator& comm, T* data, int64_t count) {
  T* const host = host_.as<T>();
  const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
  RETURN_IF_ERROR(device::Copy(stream_, host, data, bytes));
  RETURN_IF_ERROR(device::Synchronize(stream_));
  RETURN_IF_ERROR(comm.AllReduceSum(absl::MakeSpan(host, count)));
  return device::Copy(stream_, data, host, bytes);
}

absl::Status Exchange::Norm(float* x,
                            int64_t rows,
                            int64_t cols,
                            const kernels::DevicePeerNorm& norm) {
  if (norm.weight == nullptr) return absl::OkStatus();
  return kernels::DeviceRmsNorm(stream_,
                                {.x = x,
                                 .residual = nullptr,
                                 .weight = norm.weight,
                                 .out = norm.out,
                                 .rows = rows,
                                 .cols = cols,
                                 .eps = norm.eps,
                                 .dtype = norm.dtype});
}

}  // namespace paceline::worker
