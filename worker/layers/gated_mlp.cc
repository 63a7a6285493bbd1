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
                                        kernels::ComputeType compute) {
  GatedMlp mlp;
  ASSIGN_OR_RETURN(mlp.down_, Linear::Load(loader, {absl::StrCat(prefix, ".ffn_down")}, compute));
  const std::string gate = absl::StrCat(prefix, ".ffn_gate");
  const std::string up = absl::StrCat(prefix, ".ffn_up");
  if (mlp.inner_form() == kernels::ActivationForm::kInt8 && CanFuse(loader, gate, up, compute)) {
    ASSIGN_OR_RETURN(mlp.fused_,
                     loader.Matrix({absl::StrCat(gate, ".weight"), absl::StrCat(up, ".weight")},
                                   kernels::kPackRows));
  } else {
    ASSIGN_OR_RETURN(mlp.gate_up_, Linear::Load(loader, {gate, up}, compute));
  }
  return mlp;
}

absl::Status GatedMlp::Forward(const ForwardContext& context,
                               const kernels::Activations& x,
                               const GatedMlpScratch& scratch,
                               const kernels::MutableMatrix& hidden) const {
  if (fused_.has_value()) {
    RETURN_IF_ERROR(kernels::GatedMatmul(context.pool, x, *fused_, scratch.inner));
    return down_.Forward(context, scratch.inner, /*accumulate=*/true, hidden);
  }
  RETURN_IF_ERROR(gate_up_.Forward(context, x, /*accumulate=*/false, scratch.gate_up));
  const int64_t inner = gate_up_.output_size() / 2;
  RETURN_IF_ERROR(kernels::SiluMul(context.pool,
                                   scratch.gate_up.Columns(0, inner),
                                   scratch.gate_up.Columns(inner, inner),
                                   scratch.inner));
  return down_.Forward(context, scratch.inner, /*accumulate=*/true, hidden);
}

}  // namespace paceline::worker
