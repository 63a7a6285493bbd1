// The feed-forward block of Llama-like models: down(silu(gate(x)) * up(x)). Owned by its decoder
// layer; engine thread only.
#ifndef PACELINE_WORKER_LAYERS_GATED_MLP_H_
#define PACELINE_WORKER_LAYERS_GATED_MLP_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "worker/layers/forward.h"
#include "worker/layers/linear.h"
#include "worker/layers/shares.h"

namespace paceline::worker {

struct GatedMlpScratch {
  kernels::MutableMatrix gate_up;  // [m, 2 inner share] f32; unused when they are fused
  kernels::Activations& inner;     // input of the down projection
  kernels::Activations& own;       // this rank's part of it, with several ranks
};

class GatedMlp {
 public:
  // Loads this rank's shares of <prefix>.ffn_gate, ffn_up and ffn_down.
  static absl::StatusOr<GatedMlp> Load(WeightLoader& loader,
                                       const std::string& prefix,
                                       const Shares& inner,   // outputs of gate and up
                                       const Shares& hidden,  // outputs of down
                                       TensorMode mode,
                                       kernels::ComputeType compute);

  kernels::ActivationForm input_form() const {
    return fused_.has_value() ? kernels::ActivationForm::kInt8 : gate_up_.form();
  }
  kernels::ActivationForm inner_form() const { return down_.form(); }

  // hidden += mlp(x).
  absl::Status Forward(const ForwardContext& context,
                       const kernels::Activations& x,  // [m, hidden], normalised
                       const GatedMlpScratch& scratch,
                       const kernels::MutableMatrix& hidden) const;  // [m, hidden] f32

 private:
  Shares inner_shares_ = Shares::Whole(0);
  Shares hidden_shares_ = Shares::Whole(0);
  TensorMode mode_ = TensorMode::kExact;
  std::optional<kernels::PackedMatrix> fused_;  // gate and up by turns, when they allow it
  Linear gate_up_;                              // else
  Linear down_;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_LAYERS_GATED_MLP_H_
