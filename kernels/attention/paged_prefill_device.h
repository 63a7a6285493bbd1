// Causal attention of many query rows of a sequence over the device's paged KV cache: prefill,
// whole or in chunks. Stateless; enqueues on the stream; pointers are of device memory unless it
// says otherwise. The cache is laid out as paged_decode_device.h says.
//
// A row gets the bits that decoding it alone would give (warp_attention.cuh), so the way a prompt
// is cut, a cached prefix and a recomputation after preemption never show.
#ifndef PACELINE_KERNELS_ATTENTION_PAGED_PREFILL_DEVICE_H_
#define PACELINE_KERNELS_ATTENTION_PAGED_PREFILL_DEVICE_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/device/stream.h"
#include "kernels/tensor_view.h"

namespace paceline::kernels {

// The query rows of one sequence. Row first_row + i is at position context_before + i, and its keys
// and values are in the cache.
struct PrefillSequence {
  int32_t first_row;
  int32_t num_rows;
  int32_t context_before;
};

// So many query vectors (rows times heads of a group, the heads of a row together) of one sequence
// and KV head are what one thread block computes.
constexpr int32_t kPrefillVectors = 64;
constexpr int32_t kWgmmaPrefillVectors = 128;
struct PrefillItem {
  int32_t sequence;
  int32_t kv_head;
  int32_t first;
};

// Made on the host and copied to the device by the caller.
std::vector<PrefillItem> PlanPagedPrefill(absl::Span<const PrefillSequence> sequences,
                                          int32_t num_heads,
                                          int32_t num_kv_heads,
                                          int32_t vectors_per_item = kPrefillVectors);

struct PagedPrefillArgs {
  const void* q;                     // [rows, num_heads, head_dim]
  int64_t q_stride;                  // elements from one row of q to the next
  const void* kv;                    // the cache's layer
  const int32_t* page_table;         // [num_sequences, max_pages]
  const PrefillSequence* sequences;  // [num_sequences]
  const PrefillItem* items;          // [num_items]
  void* out;                         // [rows, num_heads, head_dim]
  int32_t num_items;
  int32_t max_pages;
  int32_t page_size;  // tokens, a power of two, 8 to 256
  int32_t num_heads;
  int32_t num_kv_heads;
  int32_t head_dim;  // 64, 80, 96, 128 or 256
  float scale;
  DType dtype;     // kBF16 or kF16, of q and out
  DType kv_dtype;  // as in PagedDecodeArgs
  int32_t window = 0;
  float soft_cap = 0.0f;
  const float* slopes = nullptr;  // [num_heads]
};

// InvalidArgument names the size that does not fit; Internal when the launch fails.
absl::Status PagedPrefill(device::Stream stream, const PagedPrefillArgs& args);

// The same with the products of a Hopper's warp groups, from items of kWgmmaPrefillVectors. Whether
// these add as those of PagedPrefill do, and so give the same bits, only a Hopper can tell; in
// emulation they do.
absl::Status PagedPrefillWgmma(device::Stream stream, const PagedPrefillArgs& args);

// FailedPrecondition when the thread's device cannot do it, InvalidArgument when the kernel has no
// such sizes.
absl::Status CheckPrefillWgmma(int32_t head_dim, DType dtype, DType kv_dtype);

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_ATTENTION_PAGED_PREFILL_DEVICE_H_
