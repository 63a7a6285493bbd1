// Exchanges between ranks whose devices write to each other's memory (NVLink, or PCIe peer access),
// for few rows, where latency is what an exchange costs: each rank writes its part into the memory
// of all others, block by block, and goes on when theirs are there. What follows an exchange of
// hidden states, their RMS norm, is done on the way. Stateless; enqueues on the stream; pointers
// are of device memory unless said otherwise. InvalidArgument: sizes that do not fit; Internal: a
// launch failed.
//
// All ranks call the same functions in the same order with the same sizes. What a peer writes lies
// in two places by turns: a rank is in its second exchange only when all are done with what was
// before the first. Which place is next is counted on the device, so launches may be captured.
//
// Blocks wait for those of other devices, so all of a launch must be running, or start in order.
#ifndef PACELINE_KERNELS_EXCHANGE_PEERS_DEVICE_H_
#define PACELINE_KERNELS_EXCHANGE_PEERS_DEVICE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "kernels/tensor_view.h"

namespace paceline::kernels {

constexpr int32_t kMaxPeers = 8;
constexpr int32_t kMaxPeerBlocks = 64;  // of a launch

struct DevicePeers {
  // By rank, in that rank's memory. What each rank has sent it, [2, num_ranks, piece_bytes], and
  // which exchange each of that rank's blocks sent last, [num_ranks, kMaxPeerBlocks], 0 at first.
  char* inbox[kMaxPeers];
  uint64_t* arrived[kMaxPeers];
  // This rank's own: exchanges so far, and blocks that are done with this one; 0 at first.
  uint64_t* count;
  uint32_t* blocks_done;
  // Memory of the host: not 0 when a peer will not come. Nobody waits any more, and what comes out
  // is nothing.
  uint32_t* stop;
  int64_t piece_bytes;  // a multiple of 16
  int32_t num_ranks;
  int32_t rank;
};

// What DeviceRmsNorm does with each row once it is there, with the same bits. No weight: nothing.
struct DevicePeerNorm {
  const float* weight = nullptr;  // [cols]
  void* out = nullptr;            // [rows, cols] of `dtype`
  float eps = 0;
  DType dtype = DType::kBF16;  // or kF16
};

// Rank r's columns [end_bytes[r - 1], end_bytes[r]) of every row, side by side. Sizes are even;
// whole 16 bytes are faster.
struct DevicePeerGatherArgs {
  DevicePeers peers;
  const void* own;               // [rows, this rank's columns]; may be where they are in `all`
  int64_t own_pitch;             // bytes between the beginnings of two rows
  void* all;                     // [rows, end_bytes[num_ranks - 1]]
  int64_t rows;                  // times the widest rank's columns at most peers.piece_bytes
  int64_t end_bytes[kMaxPeers];  // ascending
  DevicePeerNorm norm;           // of `all` as float32
};
absl::Status DevicePeerGather(device::Stream stream, const DevicePeerGatherArgs& args);

// x[i] becomes ((x0[i] + x1[i]) + x2[i]) + … of the ranks' x, so all ranks get the same bits.
struct DevicePeerSumArgs {
  DevicePeers peers;
  float* x;      // [rows, cols]
  int64_t rows;  // times cols at most peers.piece_bytes / 4
  int64_t cols;
  DevicePeerNorm norm;
};
absl::Status DevicePeerSum(device::Stream stream, const DevicePeerSumArgs& args);
// The same of whole numbers, which wrap.
absl::Status DevicePeerSum(device::Stream stream,
                           const DevicePeers& peers,
                           int32_t* x,  // [count]
                           int64_t count);

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_EXCHANGE_PEERS_DEVICE_H_
