// Decode attention over the device's paged KV cache: one query row of every sequence. Stateless;
// enqueues on the stream; pointers are of device memory unless it says otherwise.
//
// KV is cut into fixed chunks of 256 positions and partial results are merged in position order, so
// a sequence's bits do not depend on its batch.
//
// Cache: [page][kv_head][K | V][page_size tokens][head_dim] of 16-bit elements; or of 8-bit
// ones (int8 or E4M3), each token's head with a scale of its own, by which they are multiplied:
// [page][kv_head][K | V]{[page_size][head_dim], [page_size] float32}.
#ifndef PACELINE_KERNELS_ATTENTION_PAGED_DECODE_DEVICE_H_
#define PACELINE_KERNELS_ATTENTION_PAGED_DECODE_DEVICE_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/device/stream.h"
#include "kernels/tensor_view.h"

namespace paceline::kernels {

constexpr int32_t kDeviceKvChunk = 256;      // positions of a partial result
constexpr int32_t kMaxQueryHeadsPerKv = 16;  // query heads of a KV head

// A chunk of one sequence against one KV head: what one thread block computes.
struct DecodeItem {
  int32_t sequence;  // -1: nothing, to fill a list up to the length that a graph was captured with
  int32_t kv_head;
  int32_t chunk;
};

// The work of one step, made on the host and copied to the device by the caller. The items of a
// sequence and KV head are adjacent, in order of position; with a window those before it are left
// out.
struct DecodePlan {
  std::vector<DecodeItem> items;
  std::vector<int32_t> first_item;  // [num_sequences], of KV head 0
};
DecodePlan PlanPagedDecode(absl::Span<const int32_t> lengths,
                           int32_t num_kv_heads,
                           int32_t window = 0);

struct PagedDecodeArgs {
  const void* q;              // [num_sequences, num_heads, head_dim]
  int64_t q_stride;           // elements from one row of q to the next
  const void* kv;             // the cache's layer
  const int32_t* page_table;  // [num_sequences, max_pages]
  const int32_t* lengths;     // [num_sequences], positions that the row sees; 0: none, no output
  const DecodeItem* items;    // [num_items]
  const int32_t* first_item;  // [num_sequences]
  float* partials;            // PartialFloats(num_items, …), scratch
  void* out;                  // [num_sequences, num_heads, head_dim]
  int32_t num_sequences;
  int32_t num_items;
  int32_t max_pages;
  int32_t page_size;  // tokens, a power of two, 8 to 256
  int32_t num_heads;
  int32_t num_kv_heads;
  int32_t head_dim;  // 64, 80, 96, 128 or 256
  float scale;
  DType dtype;            // kBF16 or kF16, of q and out
  DType kv_dtype;         // of the cache: dtype, kI8 or kE4M3
  int32_t window = 0;     // positions that a row sees, its own the last; 0: all before it
  float soft_cap = 0.0f;  // c > 0: scores become c * tanh(score / c)
  // ALiBi: what a position's score loses for each position from it to the row's own, after the cap:
  // [num_heads]; null: nothing.
  const float* slopes = nullptr;
};

// Floats of scratch: per query head the weighted sum of values, the maximum and the sum of weights.
int64_t DecodePartialFloats(int64_t num_items,
                            int32_t num_heads,
                            int32_t num_kv_heads,
                            int32_t head_dim);

// InvalidArgument names the size that does not fit; Internal when a launch fails.
absl::Status PagedDecode(device::Stream stream, const PagedDecodeArgs& args);

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_ATTENTION_PAGED_DECODE_DEVICE_H_
