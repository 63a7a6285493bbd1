#include "worker/layers/shares.h"

#include <algorithm>
#include <cstring>

#include "proto/support/status_macros.h"

namespace paceline::worker {
namespace {

// The shares' ends in bytes of a row.
std::vector<int64_t> EndBytes(const Shares& shares, int64_t bytes, int64_t columns) {
  std::vector<int64_t> ends = shares.ends();
  for (int64_t& end : ends) end = end / columns * bytes;
  return ends;
}

}  // namespace

Shares Shares::Even(int64_t total, int64_t unit, int num_ranks, int rank) {
  const int64_t units = (total + unit - 1) / unit;
  std::vector<int64_t> ends;
  for (int i = 0; i < num_ranks; ++i) {
    ends.push_back(std::min(total, kernels::SplitWork(units, i, num_ranks).end * unit));
  }
  return Shares(std::move(ends), rank);
}

int64_t Shares::largest() const {
  int64_t largest = ends_.front();
  for (size_t i = 1; i < ends_.size(); ++i) largest = std::max(largest, ends_[i] - ends_[i - 1]);
  return largest;
}

bool Shares::AllNonempty() const {
  int64_t begin = 0;
  for (const int64_t end : ends_) {
    if (end <= begin) return false;
    begin = end;
  }
  return true;
}

absl::Status GatherColumns(Communicator* comm,
                           const Shares& shares,
                           const kernels::MutableMatrix& x) {
  if (comm == nullptr) return absl::OkStatus();
  return comm->AllGatherColumns(
      x.data, x.rows, x.row_stride * sizeof(float), EndBytes(shares, sizeof(float), 1));
}

absl::Status GatherColumns(Communicator* comm,
                           const Shares& shares,
                           const kernels::Activations& own,
                           kernels::Activations& x) {
  RETURN_IF_ERROR(x.Resize(own.rows(), shares.total()));
  const bool int8 = own.form() == kernels::ActivationForm::kInt8;
  // A row's unit: a block of 32 columns, or one float.
  const int64_t columns = int8 ? kernels::kBlockK : 1;
  const int64_t bytes = int8 ? sizeof(kernels::ActivationBlock) : sizeof(float);
  const int64_t stride = shares.total() / columns * bytes;
  const int64_t width = shares.size() / columns * bytes;
  auto* const to = static_cast<std::byte*>(int8 ? static_cast<void*>(x.block_row(0))
                                                : static_cast<void*>(x.float_row(0)));
  const auto* const from =
      static_cast<const std::byte*>(int8 ? static_cast<const void*>(own.block_row(0))
                                         : static_cast<const void*>(own.float_row(0)));
  for (int64_t row = 0; row < own.rows(); ++row) {
    std::memcpy(to + row * stride + shares.begin() / columns * bytes, from + row * width, width);
  }
  if (comm == nullptr) return absl::OkStatus();
  return comm->AllGatherColumns(to, own.rows(), stride, EndBytes(shares, bytes, columns));
}

}  // namespace paceline::worker
