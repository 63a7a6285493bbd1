#include "worker/layers/gated_mlp.h"

#include "absl/strings/str_cat.h"
#include "kernels/activation/silu_mul.h"
#include "proto/support/status_macros.h"

namespace paceline::worker {

absl::StatusOr<GatedMlp> GatedMlp::Load(WeightLoader& loader,
                                        const std::string& prefix,
                                        kernels::ComputeType compute) {
  GatedMlp mlp;
  ASSIGN_OR_RETURN(
      mlp.gate_up_,
      Linear::Load(
          loader, {absl::StrCat(prefix, ".ffn_gate"), absl::StrCat(prefix, ".ffn_up")}, compute));
  ASSIGN_OR_RETURN(mlp.down_, Linear::Load(loader, {absl::StrCat(prefix, ".ffn_down")}, compute));
  return mlp;
}

absl::Status GatedMlp::Forward(const ForwardContext& context,
                               const kernels::Activations& x,
                               const GatedMlpScratch& scratch,
                               const kernels::MutableMatrix& hidden) const {
  RETURN_IF_ERROR(gate_up_.Forward(context, x, /*accumulate=*/false, scratch.gate_up));
  const int64_t inner = gate_up_.output_size() / 2;
  RETURN_IF_ERROR(kernels::SiluMul(context.pool,
                                   scratch.gate_up.Columns(0, inner),
                                   scratch.gate_up.Columns(inner, inner),
                                   scratch.inner));
  return down_.Forward(context, scratch.inner, /*accumulate=*/true, hidden);
}

}  // namespace paceline::worker
