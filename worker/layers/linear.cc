#include "worker/layers/linear.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/support/status_macros.h"
#include "worker/layers/linear_tensors.h"

namespace paceline::worker {

absl::StatusOr<Linear> Linear::Load(WeightLoader& loader,
                                    absl::Span<const TensorRows> layers,
                                    kernels::ComputeType compute) {
  Linear linear;
  std::vector<TensorRows> weights;
  for (const auto run : RunsOfOneFormat(loader, layers, weights)) {
    ASSIGN_OR_RETURN(kernels::PackedMatrix part, loader.Matrix(run));
    if (!linear.parts_.empty() && part.k() != linear.k_) {
      return absl::InvalidArgumentError(
          absl::StrCat("gguf: tensor '", run[0].name, "' has another width than its neighbours"));
    }
    linear.k_ = part.k();
    linear.n_ += part.n();
    linear.parts_.push_back(std::move(part));
  }
  // Every part reads the same input: int8 only when all can.
  linear.form_ = kernels::ActivationForm::kInt8;
  for (const kernels::PackedMatrix& part : linear.parts_) {
    if (kernels::ActivationFormFor(part.format(), compute) == kernels::ActivationForm::kFloat32) {
      linear.form_ = kernels::ActivationForm::kFloat32;
    }
  }
  ASSIGN_OR_RETURN(linear.bias_, LoadBias(loader, layers));
  return linear;
}

absl::Status Linear::Forward(const ForwardContext& context,
                             const kernels::Activations& x,
                             bool accumulate,
                             const kernels::MutableMatrix& y) const {
  int64_t first = 0;
  for (const kernels::PackedMatrix& part : parts_) {
    const kernels::Epilogue epilogue{.bias = bias_.empty() ? nullptr : bias_.data() + first,
                                     .accumulate = accumulate};
    const kernels::MutableMatrix out = y.Columns(first, part.n());
    RETURN_IF_ERROR(kernels::Matmul(context.pool, x, part, epilogue, out));
    first += part.n();
  }
  return absl::OkStatus();
}

absl::Status Linear::ForwardSum(const ForwardContext& context,
                                const kernels::Activations& x,
                                bool first,
                                const kernels::MutableMatrix& y) const {
  RETURN_IF_ERROR(Forward(context, x, /*accumulate=*/first, y));
  return context.tensor_group->AllReduceSum(absl::MakeSpan(y.data, y.rows * y.cols));
}

}  // namespace paceline::worker
