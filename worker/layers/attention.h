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

namespace paceline::worker {

struct AttentionSizes {
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  kernels::RopeStyle rope_style = kernels::RopeStyle::kInterleaved;
};

// Buffers that the layers of a model share, because they run one after another. [capacity, …] f32.
struct AttentionScratch {
  kernels::MutableMatrix qkv;       // [m, (num_heads + 2 num_kv_heads) head_dim]
  kernels::MutableMatrix output;    // [m, num_heads head_dim]
  kernels::Activations& projected;  // input of the output projection
};

class Attention {
 public:
  // Loads <prefix>.attn_q, attn_k, attn_v and attn_output.
  static absl::StatusOr<Attention> Load(WeightLoader& loader,
                                        const std::string& prefix,
                                        const AttentionSizes& sizes,
                                        const kernels::RopeTable* rope,  // outlives the layer
                                        kernels::ComputeType compute);

  kernels::ActivationForm input_form() const { return qkv_.form(); }
  kernels::ActivationForm projected_form() const { return output_.form(); }

  // hidden += attention(x). Writes this layer's keys and values for every row first.
  absl::Status Forward(const ForwardContext& context,
                       const ForwardInput& input,
                       int32_t layer,
                       const kernels::Activations& x,  // [m, hidden], normalised
                       const AttentionScratch& scratch,
                       const kernels::MutableMatrix& hidden) const;  // [m, hidden] f32

 private:
  AttentionSizes sizes_;
  const kernels::RopeTable* rope_ = nullptr;
  Linear qkv_;
  Linear output_;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_LAYERS_ATTENTION_H_
