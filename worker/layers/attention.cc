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

absl::Status Attention::Project(const ForwardContext& context,
                                const ForwardInput& input,
                                kernels::WorkRange rows,
                                int32_t layer,
                                const kernels::Activations& x,
                                const kernels::MutableMatrix& qkv) const {
  const int64_t count = rows.end - rows.begin;
  const kernels::MutableMatrix part = qkv.Rows(rows.begin, count);
  RETURN_IF_ERROR(qkv_.Forward(context, x, /*accumulate=*/false, part));
  RETURN_IF_ERROR(kernels::ApplyRope(context.pool,
                                     *rope_,
                                     sizes_.rope_style,
                                     input.positions.subspan(rows.begin, count),
                                     sizes_.head_dim,
                                     part.Columns(0, q_size() + kv_size())));
  return kernels::WriteKv(context.pool,
                          part.Columns(q_size(), kv_size()),
                          part.Columns(q_size() + kv_size(), kv_size()),
                          input.slots.subspan(rows.begin, count),
                          layer,
                          input.kv_cache);
}

absl::Status Attention::Attend(const ForwardContext& context,
                               const ForwardInput& input,
                               int32_t layer,
                               const kernels::MutableMatrix& qkv,
                               const kernels::MutableMatrix& output) const {
  return kernels::PagedAttention(context.pool,
                                 qkv.Columns(0, q_size()),
                                 input.kv_cache,
                                 layer,
                                 input.sequences,
                                 1.0F / std::sqrt(static_cast<float>(sizes_.head_dim)),
                                 context.attention_workspace,
                                 output);
}

absl::Status Attention::Output(const ForwardContext& context,
                               kernels::WorkRange rows,
                               const kernels::MutableMatrix& output,
                               kernels::Activations& projected,
                               const kernels::MutableMatrix& hidden) const {
  const int64_t count = rows.end - rows.begin;
  RETURN_IF_ERROR(
      kernels::QuantizeActivations(context.pool, output.Rows(rows.begin, count), projected));
  return output_.Forward(context, projected, /*accumulate=*/true, hidden.Rows(rows.begin, count));
}

}  // namespace paceline::worker
