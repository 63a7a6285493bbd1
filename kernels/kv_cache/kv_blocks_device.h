// Copies and clears blocks of the device's paged KV cache, in all layers at once. Stateless;
// enqueues on the stream. Lists are of the host's memory and are read before the call returns.
#ifndef PACELINE_KERNELS_KV_CACHE_KV_BLOCKS_DEVICE_H_
#define PACELINE_KERNELS_KV_CACHE_KV_BLOCKS_DEVICE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/device/stream.h"
#include "kernels/kv_cache/layout.h"

namespace paceline::kernels {

// Block `b` of layer `l` is the block_bytes at base + l * layer_bytes + b * block_bytes.
struct DeviceKvBlocks {
  void* base;           // at an address divisible by 16, as are the sizes
  int64_t layer_bytes;  // from a layer to the next
  int64_t block_bytes;
  int32_t num_layers;
};

// Copies blocks in any order: none may be a source and a destination, or a destination twice.
// InvalidArgument for sizes that do not fit; Internal when a launch fails.
absl::Status DeviceCopyBlocks(device::Stream stream,
                              const DeviceKvBlocks& blocks,
                              absl::Span<const BlockCopy> copies);

// Fills blocks with zeros.
absl::Status DeviceZeroBlocks(device::Stream stream,
                              const DeviceKvBlocks& blocks,
                              absl::Span<const int32_t> ids);

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_KV_CACHE_KV_BLOCKS_DEVICE_H_
