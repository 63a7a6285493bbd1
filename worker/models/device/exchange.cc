#include "worker/models/device/exchange.h"

#include <vector>

#include "proto/support/status_macros.h"

namespace paceline::worker {

namespace device = kernels::device;

absl::StatusOr<std::unique_ptr<Exchange>> Exchange::Create(device::Stream stream, int64_t bytes) {
  auto exchange = std::unique_ptr<Exchange>(new Exchange(stream));
  ASSIGN_OR_RETURN(exchange->host_, PinnedBuffer::Allocate(bytes));
  return exchange;
}

absl::Status Exchange::GatherColumns(Communicator& comm,
                                     const Shares& shares,
                                     int64_t rows,
                                     int64_t element_bytes,
                                     const void* own,
                                     void* all) {
  return Gather(comm, shares, rows, element_bytes, own, shares.size() * element_bytes, all);
}

absl::Status Exchange::GatherColumnsInPlace(
    Communicator& comm, const Shares& shares, int64_t rows, int64_t element_bytes, void* all) {
  const char* const own = static_cast<const char*>(all) + shares.begin() * element_bytes;
  return Gather(comm, shares, rows, element_bytes, own, shares.total() * element_bytes, all);
}

absl::Status Exchange::Gather(Communicator& comm,
                              const Shares& shares,
                              int64_t rows,
                              int64_t element_bytes,
                              const void* from,
                              int64_t from_pitch,
                              void* all) {
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

template <typename T>
absl::Status Exchange::Sum(Communicator& comm, T* data, int64_t count) {
  T* const host = host_.as<T>();
  const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
  RETURN_IF_ERROR(device::Copy(stream_, host, data, bytes));
  RETURN_IF_ERROR(device::Synchronize(stream_));
  RETURN_IF_ERROR(comm.AllReduceSum(absl::MakeSpan(host, count)));
  return device::Copy(stream_, data, host, bytes);
}

template absl::Status Exchange::Sum(Communicator&, float*, int64_t);
template absl::Status Exchange::Sum(Communicator&, int32_t*, int64_t);

}  // namespace paceline::worker
