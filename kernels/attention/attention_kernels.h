// Per-instruction-set functions of paged attention. Plain data (see kernels/README.md). Private to
// kernels/.
#ifndef PACELINE_KERNELS_ATTENTION_ATTENTION_KERNELS_H_
#define PACELINE_KERNELS_ATTENTION_ATTENTION_KERNELS_H_

#include <stdint.h>

namespace paceline::kernels {

// A partial result of one query vector is head_dim + kPartialExtra floats:
// [sum of exp(s - max) * v: head_dim][max][sum of exp(s - max)][unused].
constexpr int64_t kPartialExtra = 16;
constexpr int64_t kQueryTile = 12;  // query vectors that share one pass over K and V

// Scratch floats of one chunk call: transposed queries, their scores, and these as int16.
constexpr int64_t ChunkScratchFloats(int64_t head_dim) {
  return kQueryTile * head_dim + kQueryTile * 256 + kQueryTile * 128;
}

enum class KvElement { kF32, kF16, kI8 };

// num_rows * group query vectors against one chunk (up to 256 positions) of one KV head.
struct ChunkArgs {
  const float* q;  // row r, head h of the group: q + r * q_row_stride + h * head_dim
  int64_t q_row_stride;
  int32_t num_rows;
  int32_t group;  // query heads that share the KV head
  int32_t head_dim;
  KvElement element;
  const uint8_t* const* keys;    // per block of 32 positions, as kernels/kv_cache/layout.h says
  const uint8_t* const* values;  // per block
  // Blocks that will be read next, touched while the last values are: as large as a block's.
  const uint8_t* after[2];
  int32_t first_visible;         // positions of the chunk that row 0 sees, >= 1; row r sees
                                 // min(256, first_visible + r)
  float scale;
  float* partials;  // [num_rows * group][head_dim + kPartialExtra]
  float* scratch;   // ChunkScratchFloats(head_dim)
};

struct AttentionKernels {
  // The bits of one query vector's partial depend on its q, what it sees and scale; not on the
  // other vectors of the call.
  void (*chunk)(const ChunkArgs&);
  // into = into merged with the partial of the following chunk.
  void (*merge)(float* into, const float* next, int64_t head_dim);
  // out = partial's weighted sum / its sum of weights
  void (*finish)(const float* partial, int64_t head_dim, float* out);
};

extern const AttentionKernels kAttentionPortable;
extern const AttentionKernels kAttentionAvx2;
extern const AttentionKernels kAttentionAvx512;

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_ATTENTION_ATTENTION_KERNELS_H_
