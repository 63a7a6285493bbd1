#include "worker/layers/linear.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/support/status_macros.h"

namespace paceline::worker {

absl::StatusOr<Linear> Linear::Load(WeightLoader& loader,
                                    absl::Span<const TensorRows> layers,
                                    kernels::ComputeType compute) {
  Linear linear;
  std::vector<TensorRows> weights(layers.begin(), layers.end());
  for (TensorRows& weight : weights) weight.name += ".weight";
  // Adjacent tensors of one type are packed as one matrix, so that they cost one pass.
  for (size_t i = 0; i < weights.size();) {
    const size_t first = i;
    const auto same_format = [&](const std::string& a, const std::string& b) {
      return !loader.Has(a) || !loader.Has(b) || loader.Format(a) == loader.Format(b);
    };
    do {
      ++i;
    } while (i < weights.size() && same_format(weights[first].name, weights[i].name));
    const auto run = absl::MakeConstSpan(weights).subspan(first, i - first);
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
  int64_t row = 0;
  for (const auto& [name, begin, rows_end, first_column, end_column] : layers) {
    const std::string bias_name = absl::StrCat(name, ".bias");
    ASSIGN_OR_RETURN(const int64_t rows, loader.Rows(absl::StrCat(name, ".weight")));
    const int64_t end = rows_end < 0 ? rows : rows_end;
    if (loader.Has(bias_name) && first_column == 0) {
      ASSIGN_OR_RETURN(const std::vector<float> bias, loader.Vector(bias_name));
      if (static_cast<int64_t>(bias.size()) != rows) {
        return absl::InvalidArgumentError(
            absl::StrCat("gguf: tensor '", bias_name, "' has another size than its weight"));
      }
      linear.bias_.resize(linear.n_, 0.0F);
      std::copy(bias.begin() + begin, bias.begin() + end, linear.bias_.begin() + row);
    }
    row += end - begin;
  }
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
