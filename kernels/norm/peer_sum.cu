// A block takes one row. Bound by the signal's way to the peers for few rows, and by reading their
// partial sums for more.
#include "absl/strings/str_cat.h"
#include "kernels/device/block.cuh"
#include "kernels/device/element.cuh"
#include "kernels/norm/peer_sum_device.h"

namespace paceline::kernels {
namespace {

constexpr int kSignalThreads = 32;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
static_assert(kMaxPeers <= kSignalThreads);

__global__ void SignalKernel(DevicePeers peers) {
  const uint32_t epoch = *peers.epoch + 1;
  device::SyncThreads();  // all have read it
  const int peer = device::ThreadPosition().x;
  if (peer == 0) *peers.epoch = epoch;
  if (peer < peers.num_ranks) device::StoreRelease(&peers.signals[peer][peers.rank], epoch);
}

template <typename T>
__global__ void PeerSumKernel(DevicePeerSumArgs args) {
  const DevicePeers& peers = args.peers;
  const int thread = device::ThreadPosition().x;
  if (thread < peers.num_ranks) {
    device::AwaitAtLeast(&peers.signals[peers.rank][thread], *peers.epoch);
  }
  device::SyncThreads();
  const int64_t row = int64_t{device::BlockPosition().x} * args.cols;
  float squares = 0;
  for (int i = thread; i < args.cols; i += kThreads) {
    float sum = args.partials[0][row + i];
    for (int rank = 1; rank < peers.num_ranks; ++rank) sum += args.partials[rank][row + i];
    const float value = args.x[row + i] + sum;
    args.x[row + i] = value;
    squares += value * value;
  }
  if (args.weight == nullptr) return;
  squares = device::BlockSum<kWarps>(squares, reinterpret_cast<float*>(device::SharedMemory()));
  const float scale = device::InverseSqrt(squares / static_cast<float>(args.cols) + args.eps);
  for (int i = thread; i < args.cols; i += kThreads) {
    static_cast<uint16_t*>(args.out)[row + i] =
        T::FromFloat(args.x[row + i] * scale * args.weight[i]);
  }
}

absl::Status CheckPeers(const char* op, const DevicePeers& peers) {
  if (peers.num_ranks >= 1 && peers.num_ranks <= kMaxPeers && peers.rank >= 0 &&
      peers.rank < peers.num_ranks) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(op, ": rank ", peers.rank, " of ", peers.num_ranks, ", at most ", kMaxPeers));
}

}  // namespace

absl::Status DeviceSignalPeers(device::Stream stream, const DevicePeers& peers) {
  if (auto status = CheckPeers("DeviceSignalPeers", peers); !status.ok()) return status;
  return device::Launch(stream, {1}, {kSignalThreads}, 0, SignalKernel, peers);
}

absl::Status DevicePeerSum(device::Stream stream, const DevicePeerSumArgs& args) {
  if (auto status = CheckPeers("DevicePeerSum", args.peers); !status.ok()) return status;
  if (args.rows <= 0 || args.cols <= 0 ||
      (args.dtype != DType::kBF16 && args.dtype != DType::kF16)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "DevicePeerSum: x[rows, cols] [", args.rows, ", ", args.cols, "], out of bf16 or f16"));
  }
  return device::Launch(
      stream,
      {args.rows},
      {kThreads},
      kWarps * sizeof(float),
      args.dtype == DType::kBF16 ? PeerSumKernel<device::Bf16> : PeerSumKernel<device::F16>,
      args);
}

}  // namespace paceline::kernels
