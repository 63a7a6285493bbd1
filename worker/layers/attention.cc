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
  const int64_t dim = sizes.head_dim;
  const int64_t q = sizes.first_head * dim;
  const int64_t kv = sizes.first_kv_head * dim;
  ASSIGN_OR_RETURN(
      attention.qkv_,
      Linear::Load(loader,
                   {TensorRows(absl::StrCat(prefix, ".attn_q"), q, q + attention.q_size()),
                    TensorRows(absl::StrCat(prefix, ".attn_k"), kv, kv + attention.kv_size()),
                    TensorRows(absl::StrCat(prefix, ".attn_v"), kv, kv + attention.kv_size())},
                   compute));
  TensorRows output(absl::StrCat(prefix, ".attn_output"));
  if (sizes.mode == TensorMode::kFast) {
    output.first_column = sizes.query.begin();
    output.end_column = sizes.query.end();
  } else {
    output.begin = sizes.hidden.begin();
    output.end = sizes.hidden.end();
  }
  ASSIGN_OR_RETURN(attention.output_, Linear::Load(loader, {output}, compute));
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
  RETURN_IF_ERROR(kernels::PagedAttention(context.pool,
                                          qkv.Columns(0, q_size()),
                                          input.kv_cache,
                                          layer,
                                          input.sequences,
                                          1.0F / std::sqrt(static_cast<float>(sizes_.head_dim)),
                                          context.attention_workspace,
                                          OwnColumns(output, sizes_.query)));
  if (sizes_.mode == TensorMode::kFast) return absl::OkStatus();
  return GatherColumns(context.tensor_group, sizes_.query, output);
}

absl::Status Attention::Output(const ForwardContext& context,
                               kernels::WorkRange rows,
                               const kernels::MutableMatrix& output,
                               kernels::Activations& projected,
                               const kernels::MutableMatrix& hidden) const {
  const int64_t count = rows.end - rows.begin;
  const kernels::MutableMatrix part = output.Rows(rows.begin, count);
  const kernels::MutableMatrix sum = hidden.Rows(rows.begin, count);
  if (sizes_.mode == TensorMode::kFast) {
    RETURN_IF_ERROR(
        kernels::QuantizeActivations(context.pool, OwnColumns(part, sizes_.query), projected));
    return output_.ForwardSum(context, projected, sizes_.query.begin() == 0, sum);
  }
  RETURN_IF_ERROR(kernels::QuantizeActivations(context.pool, part, projected));
  RETURN_IF_ERROR(
      output_.Forward(context, projected, /*accumulate=*/true, OwnColumns(sum, sizes_.hidden)));
  return GatherColumns(context.tensor_group, sizes_.hidden, sum);
}

}  // namespace paceline::worker
