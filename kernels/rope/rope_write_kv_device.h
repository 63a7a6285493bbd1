// After the q, k, v projection on the device: norms queries and keys where the model does, turns
// them by their positions and stores keys and values in the paged cache, in one pass. On the CPU:
// RmsNorm of [rows * heads, head_dim], ApplyRope, WriteKv. Stateless; enqueues on the stream;
// pointers are of device memory.
//
// The cache is laid out as kernels/attention/paged_decode_device.h says.
#ifndef PACELINE_KERNELS_ROPE_ROPE_WRITE_KV_DEVICE_H_
#define PACELINE_KERNELS_ROPE_ROPE_WRITE_KV_DEVICE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "kernels/rope/rope.h"
#include "kernels/tensor_view.h"

namespace paceline::kernels {

struct RopeWriteKvArgs {
  void* qkv;            // [rows, (num_heads + 2 num_kv_heads) * head_dim]; q is turned in place
  const float* angles;  // [max_positions][cos: rotary_dim / 2 | sin: rotary_dim / 2]
  const int32_t* positions;  // [rows]
  const int64_t* slots;      // [rows]: page * page_size + token; < 0: the row is left alone
  void* kv;                  // the cache's layer
  int32_t rows;
  int32_t num_heads;
  int32_t num_kv_heads;
  int32_t head_dim;
  int32_t rotary_dim;  // even, at most head_dim
  int32_t page_size;
  RopeStyle style;
  DType dtype;     // kBF16 or kF16, of qkv
  DType kv_dtype;  // of the cache: dtype or, with a head_dim of at most 256, kI8 or kE4M3

  // RMS norms of every head before it turns, as in Qwen3: [head_dim]; null: none.
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  float norm_eps = 0.0f;
};

// A row's bits depend on that row alone. InvalidArgument for sizes that do not fit; Internal when
// the launch fails. Slots must differ from one another.
absl::Status RopeWriteKv(device::Stream stream, const RopeWriteKvArgs& args);

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_ROPE_ROPE_WRITE_KV_DEVICE_H_
