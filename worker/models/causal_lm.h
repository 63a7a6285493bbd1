// One stage of a decoder-only language model on one rank: token ids in, hidden states kept, logits
// on demand. Owned by the model runner; engine thread only.
#ifndef PACELINE_WORKER_MODELS_CAUSAL_LM_H_
#define PACELINE_WORKER_MODELS_CAUSAL_LM_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/kv_cache/layout.h"
#include "kernels/tensor_view.h"
#include "worker/layers/forward.h"
#include "worker/models/best_logit.h"

namespace paceline::worker {

class CausalLm {
 public:
  virtual ~CausalLm() = default;

  // The hidden states of the first `rows` rows of a batch, [rows, hidden] f32: what the last
  // Forward made, and what the next one starts from on all stages but the first.
  virtual kernels::MutableMatrix hidden(int64_t rows) = 0;

  // Runs this stage's layers over the batch; the first stage starts with the tokens' embeddings.
  // REQUIRES: at most max_batch_tokens rows (as given to the factory). An error is a broken
  // invariant of the caller (shapes, ids), never a property of the request.
  virtual absl::Status Forward(const ForwardContext& context, const ForwardInput& input) = 0;

  // logits[i] = head(norm(hidden[rows[i]])) for rows of the last Forward, at most max_logit_rows
  // (as given to the factory). Of the first best.size() rows only best[i] is asked for: ranks then
  // do not exchange them, and logits[i] is unspecified. Last stage only.
  virtual absl::Status ComputeLogits(
      const ForwardContext& context,
      absl::Span<const int32_t> rows,
      absl::Span<BestLogit> best,
      const kernels::MutableMatrix& logits) = 0;  // [rows, vocab] f32

  virtual int32_t vocab_size() const = 0;
  // Sizes of this rank's KV cache; the element type is the caller's choice.
  virtual kernels::KvLayout kv_layout() const = 0;
  // Bytes of packed weights on this rank.
  virtual int64_t weight_bytes() const = 0;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_CAUSAL_LM_H_
