#include "worker/comm/communicator.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "proto/support/clock.h"

namespace paceline::worker {
namespace {

// Adds the time that it lives to `ns`.
class Stopwatch {
 public:
  explicit Stopwatch(int64_t& ns) : ns_(ns), start_ns_(SteadyClock::Get().NowNs()) {}
  ~Stopwatch() { ns_ += SteadyClock::Get().NowNs() - start_ns_; }

 private:
  int64_t& ns_;
  const int64_t start_ns_;
};

}  // namespace

absl::Status Communicator::AllReduceSum(absl::Span<float> data) {
  return AllReduceSum(data.data(), static_cast<int64_t>(data.size()), SumType::kF32);
}

absl::Status Communicator::AllReduceSum(absl::Span<int32_t> data) {
  return AllReduceSum(data.data(), static_cast<int64_t>(data.size()), SumType::kI32);
}

absl::Status Communicator::AllReduceSum(absl::Span<int64_t> data) {
  return AllReduceSum(data.data(), static_cast<int64_t>(data.size()), SumType::kI64);
}

absl::Status Communicator::AllReduceSum(void* data, int64_t count, SumType type) {
  if (size_ == 1) return absl::OkStatus();
  if (!failure_.ok()) return failure_;
  const Stopwatch stopwatch(waited_ns_);
  return Finish("all_reduce", DoAllReduceSum(data, count, type));
}

absl::Status Communicator::AllGatherColumns(void* matrix,
                                            int64_t num_rows,
                                            int64_t row_stride_bytes,
                                            absl::Span<const int64_t> end_bytes) {
  if (static_cast<int>(end_bytes.size()) != size_ || num_rows < 0 || end_bytes[0] < 0 ||
      !std::is_sorted(end_bytes.begin(), end_bytes.end()) || row_stride_bytes < end_bytes.back()) {
    return absl::InvalidArgumentError(absl::StrCat("rank ",
                                                   rank_,
                                                   ": all_gather: ",
                                                   num_rows,
                                                   " rows, ",
                                                   row_stride_bytes,
                                                   " bytes apart, cannot be dealt to ",
                                                   size_,
                                                   " ranks by ",
                                                   end_bytes.size(),
                                                   " ends of columns"));
  }
  if (size_ == 1) return absl::OkStatus();
  if (!failure_.ok()) return failure_;
  const Stopwatch stopwatch(waited_ns_);
  return Finish(
      "all_gather",
      DoAllGatherColumns({static_cast<std::byte*>(matrix), num_rows, row_stride_bytes, end_bytes}));
}

absl::Status Communicator::Broadcast(absl::Span<std::byte> data, int root) {
  if (size_ == 1 && root == 0) return absl::OkStatus();
  if (root < 0 || root >= size_) return CheckPeer("broadcast", root);
  if (!failure_.ok()) return failure_;
  const Stopwatch stopwatch(waited_ns_);
  return Finish("broadcast", DoBroadcast(data, root));
}

absl::Status Communicator::Send(absl::Span<const std::byte> data, int to) {
  if (absl::Status status = CheckPeer("send", to); !status.ok()) return status;
  if (!failure_.ok()) return failure_;
  const Stopwatch stopwatch(waited_ns_);
  return Finish("send", DoSend(data, to));
}

absl::Status Communicator::Recv(absl::Span<std::byte> data, int from) {
  if (absl::Status status = CheckPeer("recv", from); !status.ok()) return status;
  if (!failure_.ok()) return failure_;
  const Stopwatch stopwatch(waited_ns_);
  return Finish("recv", DoRecv(data, from));
}

absl::Status Communicator::Barrier() {
  if (size_ == 1) return absl::OkStatus();
  if (!failure_.ok()) return failure_;
  const Stopwatch stopwatch(waited_ns_);
  return Finish("barrier", DoAllReduceSum(nullptr, 0, SumType::kF32));
}

absl::Status Communicator::CheckPeers() {
  if (size_ == 1 || !failure_.ok()) return failure_;
  return DoCheckPeers();
}

absl::Status Communicator::CheckPeer(const char* operation, int peer) const {
  if (peer >= 0 && peer < size_ && peer != rank_) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("rank ", rank_, ": ", operation, ": no peer ", peer, " in a group of ", size_));
}

absl::Status Communicator::Finish(const char* operation, absl::Status status) {
  if (status.ok()) return status;
  failure_ = absl::Status(status.code(),
                          absl::StrCat("rank ", rank_, ": ", operation, ": ", status.message()));
  if (!absl::IsAborted(failure_)) Abort(std::string(failure_.message()));
  return failure_;
}

}  // namespace paceline::worker
