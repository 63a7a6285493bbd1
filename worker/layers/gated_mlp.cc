#include "worker/layers/gated_mlp.h"

#include "absl/strings/str_cat.h"
#include "kernels/activation/gated_matmul.h"
#include "kernels/activation/silu_mul.h"
#include "proto/support/status_macros.h"

namespace paceline::worker {
namespace {

// One pass takes both when they have one int8 format, whole blocks of outputs and no biases.
bool CanFuse(const WeightLoader& loader,
             const std::string& gate,
             const std::string& up,
             kernels::ComputeType compute) {
  const std::string gate_weight = absl::StrCat(gate, ".weight");
  const std::string up_weight = absl::StrCat(up, ".weight");
  if (!loader.Has(gate_weight) || !loader.Has(up_weight)) return false;
  if (loader.Has(absl::StrCat(gate, ".bias")) || loader.Has(absl::StrCat(up, ".bias")))
    return false;
  const kernels::WeightFormat format = loader.Format(gate_weight);
  const absl::StatusOr<int64_t> rows = loader.Rows(gate_weight);
  return format == loader.Format(up_weight) && rows.ok() && *rows % kernels::kBlockK == 0 &&
         kernels::ActivationFormFor(format, compute) == kernels::ActivationForm::kInt8;
}

}  // namespace

absl::StatusOr<GatedMlp> GatedMlp::Load(WeightLoader& loader,
                                        const std::string& prefix,
                                        const Shares& inner,
                                        const Shares& hidden,
                                        TensorMode mode,
                                        kernels::ComputeType compute) {
  GatedMlp mlp;
  mlp.mode_ = mode;
  mlp.inner_shares_ = inner;
  mlp.hidden_shares_ = hidden;
  const auto rows_of = [](const std::string& name, const Shares& shares) {
    return TensorRows(name, shares.begin(), shares.end());
  };
  TensorRows down(absl::StrCat(prefix, ".ffn_down"));
  if (mode == TensorMode::kFast) {
    down.first_column = inner.begin();
    down.end_column = inner.end();
  } else {
    down.begin = hidden.begin();
    down.end = hidden.end();
  }
  ASSIGN_OR_RETURN(mlp.down_, Linear::Load(loader, {down}, compute));
  const std::string gate = absl::StrCat(prefix, ".ffn_gate");
  const std::string up = absl::StrCat(prefix, ".ffn_up");
  if (mlp.inner_form() == kernels::ActivationForm::kInt8 && CanFuse(loader, gate, up, compute)) {
    ASSIGN_OR_RETURN(mlp.fused_,
                     loader.Matrix({rows_of(absl::StrCat(gate, ".weight"), inner),
                                    rows_of(absl::StrCat(up, ".weight"), inner)},
                                   kernels::kPackRows));
  } else {
    ASSIGN_OR_RETURN(mlp.gate_up_,
                     Linear::Load(loader, {rows_of(gate, inner), rows_of(up, inner)}, compute));
  }
  return mlp;
}

absl::Status GatedMlp::Forward(const ForwardContext& context,
                               const kernels::Activations& x,
                               const GatedMlpScratch& scratch,
                               const kernels::MutableMatrix& hidden) const {
  Communicator* const comm = context.tensor_group;
  kernels::Activations& own = comm == nullptr ? scratch.inner : scratch.own;
  if (fused_.has_value()) {
    RETURN_IF_ERROR(kernels::GatedMatmul(context.pool, x, *fused_, own));
  } else {
    RETURN_IF_ERROR(gate_up_.Forward(context, x, /*accumulate=*/false, scratch.gate_up));
    const int64_t inner = gate_up_.output_size() / 2;
    RETURN_IF_ERROR(kernels::SiluMul(context.pool,
                                     scratch.gate_up.Columns(0, inner),
                                     scratch.gate_up.Columns(inner, inner),
                                     own));
  }
  if (mode_ == TensorMode::kFast) {
    return down_.ForwardSum(context, own, inner_shares_.begin() == 0, hidden);
  }
  if (comm != nullptr) RETURN_IF_ERROR(GatherColumns(comm, inner_shares_, own, scratch.inner));
  RETURN_IF_ERROR(down_.Forward(
      context, scratch.inner, /*accumulate=*/true, OwnColumns(hidden, hidden_shares_)));
  return GatherColumns(comm, hidden_shares_, hidden);
}

}  // namespace paceline::worker
