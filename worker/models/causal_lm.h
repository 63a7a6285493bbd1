// One stage of a decoder-only language model on one rank, with its KV cache, on the CPU or on a
// device: token ids in, hidden states kept, logits on demand. Owned by the model shard; made on any
// one thread, then engine thread only.
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
#include "worker/sample/sample_job.h"

namespace paceline::worker {

class CausalLm {
 public:
  struct Sizes {
    int32_t vocab_size = 0;
    int64_t weight_bytes = 0;    // on this rank, as the kernels read them
    int64_t kv_cache_bytes = 0;  // reserved on this rank
    int32_t max_logit_rows = 0;  // of one ComputeLogits
    bool finds_best = false;     // the best logit of a row costs less than all of them
    bool moves_hidden = false;   // Forward takes hidden states from the stage before to the next
    // Forward and StartLogits return before their work is done, and Forward may be told where its
    // tokens will be (ForwardInput::token_rows).
    bool returns_early = false;
    bool samples = false;  // this is the leader's, and takes jobs
  };

  virtual ~CausalLm() = default;

  // How many blocks the KV cache may have on this rank: as many as options.kv_cache_bytes hold, or,
  // where these are 0, as the device has room for beside weights and the largest pass. Before
  // ReserveKvCache. ResourceExhausted: there is no memory for such a pass.
  virtual absl::StatusOr<int32_t> RoomForBlocks(const ForwardContext& context) = 0;
  // Once, before what follows. ResourceExhausted: no memory.
  virtual absl::Status ReserveKvCache(int32_t num_blocks) = 0;
  // Zeroes blocks, then copies some. InvalidArgument: an id is outside the cache.
  virtual absl::Status PrepareBlocks(const ForwardContext& context,
                                     absl::Span<const int32_t> zero_blocks,
                                     absl::Span<const kernels::BlockCopy> copies) = 0;

  // The hidden states of the first `rows` rows of a batch, [rows, hidden] f32 in host memory: what
  // the last Forward made on all stages but the last, and what the next one starts from on all but
  // the first. Not where sizes().moves_hidden.
  virtual kernels::MutableMatrix hidden(int64_t rows) = 0;

  // Runs this stage's layers over the batch; the first stage starts with the tokens' embeddings.
  // REQUIRES: at most max_batch_tokens rows (as given to the factory). An error is a broken
  // invariant of the caller (shapes, ids) or a lost rank or device, never a property of the
  // request.
  virtual absl::Status Forward(const ForwardContext& context, const ForwardInput& input) = 0;

  // logits(rows.size())[i] = head(norm(hidden[rows[i]])) for rows of the last Forward, at most
  // max_logit_rows. Of the first best.size() rows only best[i] is asked for; jobs, where there are
  // any, are one for each of the others, and those that sample come before those that score:
  // results[i] is then what RunJob makes of the row. The logits of both are unspecified. Last stage
  // only.
  virtual absl::Status ComputeLogits(const ForwardContext& context,
                                     absl::Span<const int32_t> rows,
                                     absl::Span<BestLogit> best,
                                     absl::Span<const SampleJob> jobs,
                                     absl::Span<SampleResult> results) = 0;
  // The same in two, where sizes().returns_early: asked for, with `num_best` rows of which the best
  // is wanted, and waited for, whatever has been started since. One is under way at most, and jobs
  // and what they point to stay as they are meanwhile.
  virtual absl::Status StartLogits(const ForwardContext& context,
                                   absl::Span<const int32_t> rows,
                                   int32_t num_best,
                                   absl::Span<const SampleJob> jobs) {
    return absl::UnimplementedError("StartLogits");
  }
  virtual absl::Status FinishLogits(absl::Span<BestLogit> best,
                                    absl::Span<const SampleJob> jobs,
                                    absl::Span<SampleResult> results) {
    return absl::UnimplementedError("FinishLogits");
  }
  // ComputeLogits for rows that another stage computed, [jobs.size(), vocab] of logits(); on the
  // leader.
  virtual absl::Status Sample(const kernels::MutableMatrix& rows,
                              absl::Span<const SampleJob> jobs,
                              absl::Span<SampleResult> results) = 0;
  // [rows, vocab] f32 in host memory.
  virtual kernels::MutableMatrix logits(int64_t rows) = 0;

  virtual Sizes sizes() const = 0;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_CAUSAL_LM_H_
