// Causal attention over the paged KV cache: prefill chunks and decode rows alike, in one call per
// layer. Stateless; call from the pool's owner thread.
//
// One output row's bits depend only on its q and on the keys and values before it: KV is cut into
// fixed chunks of 256 positions, each chunk's partial result is computed in one order whoever asks,
// and partials are merged in position order. So batch-mates, the way a prompt was cut into prefill
// chunks, block ids and thread counts never show.
#ifndef PACELINE_KERNELS_ATTENTION_PAGED_ATTENTION_H_
#define PACELINE_KERNELS_ATTENTION_PAGED_ATTENTION_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/cpu/aligned_buffer.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/kv_cache/layout.h"
#include "kernels/tensor_view.h"

namespace paceline::kernels {

constexpr int32_t kKvChunk = 256;  // positions per partial result

// The query rows of one sequence in this batch. Row first_row + i is at position
// context_before + i, and its keys and values are already in the cache (WriteKv came first).
struct SequenceView {
  int32_t first_row = 0;
  int32_t num_rows = 0;
  int32_t context_before = 0;
  absl::Span<const int32_t> block_table;  // at least ceil((context_before + num_rows) / 32) ids
};

struct AttentionPlan;

// Scratch memory, reused from call to call; owned by the runner, used by one call at a time.
class AttentionWorkspace {
 public:
  AttentionWorkspace();
  ~AttentionWorkspace();

  AttentionPlan& plan() { return *plan_; }
  // At least `count` floats, undefined contents; grows, never shrinks. ResourceExhausted when there
  // is no memory.
  absl::StatusOr<float*> Reserve(int64_t count);

 private:
  std::unique_ptr<AttentionPlan> plan_;
  AlignedBuffer buffer_;
};

// num_heads = q.cols / head_dim must be a multiple of the layout's num_kv_heads; query head h reads
// KV head h / (num_heads / num_kv_heads). Rows of q that no sequence names are left alone in `out`.
// InvalidArgument when shapes disagree, a sequence's rows lie outside q, or a block id outside the
// cache.
absl::Status PagedAttention(ThreadPool& pool,
                            const Matrix& q,  // [num_tokens, num_heads * head_dim] f32
                            const KvCacheView& cache,
                            int32_t layer,
                            absl::Span<const SequenceView> sequences,
                            float scale,  // usually 1 / sqrt(head_dim)
                            AttentionWorkspace& workspace,
                            const MutableMatrix& out);  // [num_tokens, num_heads * head_dim] f32

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_ATTENTION_PAGED_ATTENTION_H_
