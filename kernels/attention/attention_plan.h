// Cuts one attention call into work items; host planning, no arithmetic on tensors. Stateless; any
// thread. Private to kernels/.
#ifndef PACELINE_KERNELS_ATTENTION_ATTENTION_PLAN_H_
#define PACELINE_KERNELS_ATTENTION_ATTENTION_PLAN_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/attention/paged_attention.h"

namespace paceline::kernels {

// Rows [first_row, first_row + num_rows) of one sequence against one KV head: all chunks that they
// see, in order (chunk < 0), or a single chunk whose partial goes to the workspace.
struct AttentionItem {
  int32_t sequence;
  int32_t kv_head;
  int32_t first_row;  // within the sequence
  int32_t num_rows;
  int32_t chunk;           // -1: all, result to `out`
  int64_t partial_offset;  // chunk >= 0: where its partials go, in query vectors
};

// Chunks merged into a result after every single-chunk item is done.
struct AttentionMerge {
  int32_t sequence;
  int32_t kv_head;
  int32_t first_row;
  int32_t num_rows;
  int32_t num_chunks;
  int64_t partial_offset;  // [num_chunks][num_rows * group] query vectors
};

struct AttentionPlan {
  std::vector<AttentionItem> items;
  std::vector<AttentionMerge> merges;
  int64_t num_partials = 0;  // query vectors
};

// How the work is cut never changes a result; it only balances threads. An item that is a large
// part of the whole is cut by chunk.
void PlanAttention(absl::Span<const SequenceView> sequences,
                   int32_t num_kv_heads,
                   int32_t group,
                   int num_threads,
                   AttentionPlan& plan);

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_ATTENTION_ATTENTION_PLAN_H_
