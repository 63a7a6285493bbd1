// What one forward pass works on, as layers see it: sizes, rows and views, never a model's
// configuration or a sequence. Owned by the model runner; engine thread only.
#ifndef PACELINE_WORKER_LAYERS_FORWARD_H_
#define PACELINE_WORKER_LAYERS_FORWARD_H_

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "kernels/attention/paged_attention.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/gemm/activations.h"
#include "kernels/kv_cache/layout.h"
#include "worker/comm/communicator.h"
#include "worker/trace/step_trace.h"

namespace paceline::worker {

// One batch: row i is token token_ids[i] at position positions[i], whose keys and values go to
// cache slot slots[i]. Rows of one sequence are adjacent and in order.
struct ForwardInput {
  absl::Span<const int32_t> token_ids;  // [num_tokens]
  // [num_tokens], or empty. The tokens are not known yet: row i's is what row token_rows[i] of the
  // last StartLogits is given; token_ids says nothing. Only where CausalLm::Sizes::returns_early.
  absl::Span<const int32_t> token_rows;
  absl::Span<const int32_t> positions;  // [num_tokens]
  absl::Span<const int32_t> slots;      // [num_tokens]
  absl::Span<const kernels::SequenceView> sequences;
  kernels::KvCacheView kv_cache = {};  // set by the model, whose it is
  // Called between layers: a long pass is seen to be alive.
  absl::FunctionRef<void()> on_layer;
};

// The rank's execution resources, shared by its layers.
struct ForwardContext {
  kernels::ThreadPool& pool;
  kernels::ComputeType compute;
  kernels::AttentionWorkspace& attention_workspace;
  StepTrace* trace = nullptr;   // where its parts on several threads are timed; may be null
  TraceTrack* track = nullptr;  // of the thread that runs this; null without a trace
  Communicator* tensor_group = nullptr;  // ranks that share every layer; null: this one alone
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_LAYERS_FORWARD_H_
