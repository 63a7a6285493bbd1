// The sum over the ranks of a tensor group, over memory that the devices of all of them reach
// (NVLink or PCIe peer access), with the addition to the residual stream and the RMS norm after it:
// for few rows, where latency is what an all-reduce costs. Every rank reads all partial sums and
// adds them in order of rank, so all get the same bits. Stateless; enqueues on the stream; pointers
// are of device memory.
//
// A rank's stream: its partial sums are written, DeviceSignalPeers, DevicePeerSum. Partial sums lie
// in two places by turns: a rank is past its second signal only when all are done reading what was
// before the first.
#ifndef PACELINE_KERNELS_NORM_PEER_SUM_DEVICE_H_
#define PACELINE_KERNELS_NORM_PEER_SUM_DEVICE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "kernels/tensor_view.h"

namespace paceline::kernels {

constexpr int32_t kMaxPeers = 8;

struct DevicePeers {
  // By rank, in that rank's memory: how often each rank has signalled it, [num_ranks], 0 at first.
  uint32_t* signals[kMaxPeers];
  uint32_t* epoch;  // how often this rank has signalled, 0 at first
  int32_t num_ranks;
  int32_t rank;
};

// Tells all peers that what this rank's stream has written so far is there. The functions return
// InvalidArgument for sizes that do not fit, and Internal when a launch fails.
absl::Status DeviceSignalPeers(device::Stream stream, const DevicePeers& peers);

struct DevicePeerSumArgs {
  DevicePeers peers;
  const float* partials[kMaxPeers];  // by rank, [rows, cols]
  float* x;                          // [rows, cols], the residual stream: the sum is added to it
  const float* weight;               // [cols] of the norm, or null for none
  void* out;                         // [rows, cols] of `dtype`: x / rms(x) * weight
  int32_t rows;
  int32_t cols;
  float eps;
  DType dtype;  // kBF16 or kF16
};

// Waits for the peers' signals. A row's bits depend on that row alone.
absl::Status DevicePeerSum(device::Stream stream, const DevicePeerSumArgs& args);

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_NORM_PEER_SUM_DEVICE_H_
