#include "worker/layers/linear_tensors.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "proto/support/status_macros.h"

namespace paceline::worker {

std::vector<absl::Span<const TensorRows>> RunsOfOneFormat(const WeightLoader& loader,
                                                          absl::Span<const TensorRows> layers,
                                                          std::vector<TensorRows>& weights) {
  weights.assign(layers.begin(), layers.end());
  for (TensorRows& weight : weights) weight.name += ".weight";
  const auto same_format = [&](const std::string& a, const std::string& b) {
    return !loader.Has(a) || !loader.Has(b) || loader.Format(a) == loader.Format(b);
  };
  std::vector<absl::Span<const TensorRows>> runs;
  for (size_t i = 0; i < weights.size();) {
    const size_t first = i;
    do {
      ++i;
    } while (i < weights.size() && same_format(weights[first].name, weights[i].name));
    runs.push_back(absl::MakeConstSpan(weights).subspan(first, i - first));
  }
  return runs;
}

absl::StatusOr<std::vector<float>> LoadBias(WeightLoader& loader,
                                            absl::Span<const TensorRows> layers) {
  std::vector<float> all;
  bool has_any = false;
  for (const auto& [name, begin, rows_end, first_column, end_column] : layers) {
    const std::string bias_name = absl::StrCat(name, ".bias");
    ASSIGN_OR_RETURN(const int64_t rows, loader.Rows(absl::StrCat(name, ".weight")));
    const int64_t end = rows_end < 0 ? rows : rows_end;
    std::vector<float> bias(rows, 0.0F);
    if (loader.Has(bias_name) && first_column == 0) {
      has_any = true;
      ASSIGN_OR_RETURN(bias, loader.Vector(bias_name));
      if (static_cast<int64_t>(bias.size()) != rows) {
        return absl::InvalidArgumentError(
            absl::StrCat("gguf: tensor '", bias_name, "' has another size than its weight"));
      }
    }
    all.insert(all.end(), bias.begin() + begin, bias.begin() + end);
  }
  if (!has_any) all.clear();
  return all;
}

}  // namespace paceline::worker
