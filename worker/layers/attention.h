// Grouped-query self-attention over the paged KV cache with rotary positions. Owned by its decoder
// layer; engine thread only.
#ifndef PACELINE_WORKER_LAYERS_ATTENTION_H_
#define PACELINE_WORKER_LAYERS_ATTENTION_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/rope/rope.h"
#include "worker/layers/forward.h"
#include "worker/layers/linear.h"
#include "worker/layers/shares.h"

namespace paceline::worker {

// Sizes of this rank's part: as many query heads to each KV head as the model has, or fewer to one.
struct AttentionSizes {
  int32_t first_head = 0;
  int32_t num_heads = 0;
  int32_t first_kv_head = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  Shares query = Shares::Whole(0);   // columns of what attention gives, of all ranks
  Shares hidden = Shares::Whole(0);  // outputs of the output projection
  TensorMode mode = TensorMode::kExact;
  kernels::RopeStyle rope_style = kernels::RopeStyle::kInterleaved;
};

class Attention {
 public:
  // Loads this rank's rows of <prefix>.attn_q, attn_k, attn_v and attn_output.
  static absl::StatusOr<Attention> Load(WeightLoader& loader,
                                        const std::string& prefix,
                                        const AttentionSizes& sizes,
                                        const kernels::RopeTable* rope,  // outlives the layer
                                        kernels::ComputeType compute);

  kernels::ActivationForm input_form() const { return qkv_.form(); }
  kernels::ActivationForm projected_form() const { return output_.form(); }

  // The three steps of one layer. The first and the last work on rows [rows.begin, rows.end) of the
  // batch and may be called for several parts of it at a time; Attend needs every row's first step.

  // Writes the rows' queries to qkv and their keys and values to the cache.
  absl::Status Project(const ForwardContext& context,
                       const ForwardInput& input,
                       kernels::WorkRange rows,
                       int32_t layer,
                       const kernels::Activations& x,             // [rows, hidden], normalised
                       const kernels::MutableMatrix& qkv) const;  // [m, qkv_size()] f32, scratch

  // output = softmax(q k^T) v for every row, gathered from all ranks where the mode is exact.
  absl::Status Attend(const ForwardContext& context,
                      const ForwardInput& input,
                      int32_t layer,
                      const kernels::MutableMatrix& qkv,            // [m, qkv_size()]
                      const kernels::MutableMatrix& output) const;  // [m, query.total()] f32

  // hidden += output W_o^T.
  absl::Status Output(const ForwardContext& context,
                      kernels::WorkRange rows,
                      const kernels::MutableMatrix& output,         // [m, query.total()]
                      kernels::Activations& projected,              // scratch of projected_form()
                      const kernels::MutableMatrix& hidden) const;  // [m, hidden] f32

  int64_t q_size() const { return int64_t{sizes_.num_heads} * sizes_.head_dim; }
  int64_t kv_size() const { return int64_t{sizes_.num_kv_heads} * sizes_.head_dim; }
  int64_t qkv_size() const { return q_size() + 2 * kv_size(); }

 private:
  AttentionSizes sizes_;
  const kernels::RopeTable* rope_ = nullptr;
  Linear qkv_;
  Linear output_;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_LAYERS_ATTENTION_H_
