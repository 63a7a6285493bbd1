#include "worker/layers/attention.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/kv_cache/write_kv.h"
#include "proto/support/status_macros.h"

namespace paceline::worker {

absl::StatusOr<Attention> Attention::Load(WeightLoader& loader,
                                          const std::string& prefix,
                                          const AttentionSizes& sizes,
                                          const kernels::RopeTable* rope,
                                          kernels::ComputeType compute) {
  Attention attention;
  attention.sizes_ = sizes;
  attention.rope_ = rope;
  ASSIGN_OR_RETURN(attention.qkv_,
                   Linear::Load(loader,
                                {absl::StrCat(prefix, ".attn_q"),
                                 absl::StrCat(prefix, ".attn_k"),
                                 absl::StrCat(prefix, ".attn_v")},
                                compute));
  ASSIGN_OR_RETURN(attention.output_,
                   Linear::Load(loader, {absl::StrCat(prefix, ".attn_output")}, compute));
  return attention;
}

absl::Status Attention::Forward(const ForwardContext& context,
                                const ForwardInput& input,
                                int32_t layer,
                                const kernels::Activations& x,
                                const AttentionScratch& scratch,
                                const kernels::MutableMatrix& hidden) const {
  const int64_t q_size = int64_t{sizes_.num_heads} * sizes_.head_dim;
  const int64_t kv_size = int64_t{sizes_.num_kv_heads} * sizes_.head_dim;
  RETURN_IF_ERROR(qkv_.Forward(context, x, /*accumulate=*/false, scratch.qkv));
  RETURN_IF_ERROR(kernels::ApplyRope(context.pool,
                                     *rope_,
                                     sizes_.rope_style,
                                     input.positions,
                                     sizes_.head_dim,
                                     scratch.qkv.Columns(0, q_size + kv_size)));
  RETURN_IF_ERROR(kernels::WriteKv(context.pool,
                                   scratch.qkv.Columns(q_size, kv_size),
                                   scratch.qkv.Columns(q_size + kv_size, kv_size),
                                   input.slots,
                                   layer,
                                   input.kv_cache));
  RETURN_IF_ERROR(kernels::PagedAttention(context.pool,
                                          scratch.qkv.Columns(0, q_size),
                                          input.kv_cache,
                                          layer,
                                          input.sequences,
                                          1.0F / std::sqrt(static_cast<float>(sizes_.head_dim)),
                                          context.attention_workspace,
                                          scratch.output));
  RETURN_IF_ERROR(kernels::QuantizeActivations(context.pool, scratch.output, scratch.projected));
  return output_.Forward(context, scratch.projected, /*accumulate=*/true, hidden);
}

}  // namespace paceline::worker
