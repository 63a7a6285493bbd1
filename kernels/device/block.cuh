// Reductions over a thread block. Every thread gets the result; lanes are combined by a butterfly,
// warps in order, so it does not depend on timing. `scratch` is kWarps elements of shared memory,
// free again when the call returns.
#ifndef PACELINE_KERNELS_DEVICE_BLOCK_CUH_
#define PACELINE_KERNELS_DEVICE_BLOCK_CUH_

#include "device_backend.cuh"

namespace paceline::kernels::device {

template <int kWarps, typename T, typename Combine>
__device__ __forceinline__ T BlockReduce(T value, T* scratch, Combine combine) {
  for (int mask = 16; mask > 0; mask /= 2) value = combine(value, ShuffleXor(value, mask));
  const int thread = ThreadPosition().x;
  if (thread % 32 == 0) scratch[thread / 32] = value;
  SyncThreads();
  T total = scratch[0];
  for (int warp = 1; warp < kWarps; ++warp) total = combine(total, scratch[warp]);
  SyncThreads();
  return total;
}

template <int kWarps, typename T>
__device__ __forceinline__ T BlockSum(T value, T* scratch) {
  return BlockReduce<kWarps>(value, scratch, [](T a, T b) { return a + b; });
}

template <int kWarps, typename T>
__device__ __forceinline__ T BlockMax(T value, T* scratch) {
  return BlockReduce<kWarps>(value, scratch, [](T a, T b) { return a > b ? a : b; });
}

}  // namespace paceline::kernels::device

#endif  // PACELINE_KERNELS_DEVICE_BLOCK_CUH_
