// Where keys and values lie in the paged KV cache. Plain values; any thread.
//
// The cache is one array of blocks of BytesPerBlock() each; a block holds 32 tokens of every layer:
//   [block][layer][kv_head][ K: [head_dim][32 tokens] | V: [32 tokens][head_dim] ]
// K is transposed so that one vector of scores is 16 tokens; V is not, so that one vector of output
// is 16 dimensions. One (block, layer, head) is contiguous, and copying a block is one memcpy.
//
// With kI8 every token's head has a scale of its own, so what a token is stored as depends on
// nothing but itself, and what is multiplied in pairs lies in pairs:
//   K: [head_dim / 2][32 tokens][2], f32 scale[32] | V: [16 pairs of tokens][head_dim][2], f32
//   scale[32]
#ifndef PACELINE_KERNELS_KV_CACHE_LAYOUT_H_
#define PACELINE_KERNELS_KV_CACHE_LAYOUT_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/tensor_view.h"

namespace paceline::kernels {

constexpr int32_t kKvBlockSize = 32;  // tokens in a block

struct KvLayout {
  int32_t num_layers = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;       // multiple of 16
  DType dtype = DType::kF16;  // kF16, kI8, or kF32 for the reference float path; kE4M3 on devices

  // Elements of K (or V) of one head in one block; those of 8 bits are followed by scales.
  int64_t ElementBytes() const { return int64_t{kKvBlockSize} * head_dim * DTypeSize(dtype); }
  int64_t HeadBytes() const {
    return ElementBytes() + (DTypeSize(dtype) == 1 ? kKvBlockSize * sizeof(float) : 0);
  }
  int64_t LayerBytes() const { return num_kv_heads * 2 * HeadBytes(); }
  int64_t BytesPerBlock() const { return num_layers * LayerBytes(); }
  int64_t BytesPerToken() const { return BytesPerBlock() / kKvBlockSize; }
  // Offset of K of (layer, kv_head) inside a block; V follows HeadBytes() later.
  int64_t KeyOffset(int32_t layer, int32_t kv_head) const {
    return layer * LayerBytes() + kv_head * 2 * HeadBytes();
  }
};

// InvalidArgument unless every size is positive, head_dim is a multiple of 16 (at most 512) and
// dtype is kF16, kI8 or kF32.
absl::Status CheckLayout(const KvLayout& layout);

// The cache's memory: num_blocks * layout.BytesPerBlock() bytes at `base`, aligned to 64.
struct KvCacheView {
  uint8_t* base = nullptr;
  int32_t num_blocks = 0;
  KvLayout layout;

  uint8_t* Key(int32_t block, int32_t layer, int32_t kv_head) const {
    return base + block * layout.BytesPerBlock() + layout.KeyOffset(layer, kv_head);
  }
  uint8_t* Value(int32_t block, int32_t layer, int32_t kv_head) const {
    return Key(block, layer, kv_head) + layout.HeadBytes();
  }
};

struct BlockCopy {
  int32_t from;
  int32_t to;
};

// Copies whole blocks (all layers), in order: copy-on-write. InvalidArgument, copying nothing, when
// an id is outside the cache.
absl::Status CopyBlocks(ThreadPool& pool,
                        const KvCacheView& cache,
                        absl::Span<const BlockCopy> copies);

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_KV_CACHE_LAYOUT_H_
