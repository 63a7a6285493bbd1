#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/dispatch.h"
#include "kernels/sampling/logits.h"
#include "kernels/sampling/logits_kernels.h"

namespace paceline::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

float Max(const float* logits, int64_t n, bool* has_nan) {
  float max = -kInfinity;
  *has_nan = false;
  for (int64_t i = 0; i < n; ++i) {
    *has_nan |= std::isnan(logits[i]);
    if (logits[i] > max) max = logits[i];
  }
  return max;
}

int64_t Find(const float* logits, int64_t n, float value) {
  return std::find(logits, logits + n, value) - logits;
}

double SumExpRow(const float* logits, int64_t n, float max, float scale) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp((logits[i] - max) * scale);
  return sum;
}

int64_t Collect(const float* logits,
                int64_t begin,
                int64_t n,
                float threshold,
                bool strict,
                int64_t capacity,
                int32_t* ids,
                float* values,
                int64_t* next) {
  int64_t count = 0;
  int64_t i = begin;
  for (; i < n && count < capacity; ++i) {
    if (strict ? logits[i] > threshold : logits[i] >= threshold) {
      ids[count] = static_cast<int32_t>(i);
      values[count++] = logits[i];
    }
  }
  *next = i;
  return count;
}

int64_t CountGreaterRow(const float* logits, int64_t n, float value) {
  return std::count_if(logits, logits + n, [&](float logit) { return logit > value; });
}

const LogitsKernels& Kernels() {
  return Select(IsaTables<LogitsKernels>{&kLogitsPortable, &kLogitsAvx2, &kLogitsAvx512});
}

// Calls visit(id, logit) for the tokens past `threshold()`, which may rise on the way: it is read
// again for every piece of the row.
template <typename Threshold, typename Visit>
void ForEachPast(absl::Span<const float> logits, bool strict, Threshold threshold, Visit visit) {
  constexpr int64_t kPiece = 256;
  int32_t ids[kPiece];
  float values[kPiece];
  const LogitsKernels& kernels = Kernels();
  const auto n = static_cast<int64_t>(logits.size());
  for (int64_t at = 0; at < n;) {
    const int64_t count =
        kernels.collect(logits.data(), at, n, threshold(), strict, kPiece, ids, values, &at);
    for (int64_t i = 0; i < count; ++i) visit(ids[i], values[i]);
  }
}

}  // namespace

const LogitsKernels kLogitsPortable = {Max, Find, SumExpRow, Collect, CountGreaterRow};

LogitSummary ArgMax(absl::Span<const float> logits) {
  LogitSummary summary{{-1, -kInfinity}, true};
  if (logits.empty()) return summary;
  const LogitsKernels& kernels = Kernels();
  const auto n = static_cast<int64_t>(logits.size());
  bool has_nan = false;
  const float max = kernels.max(logits.data(), n, &has_nan);
  summary.finite = !has_nan && max < kInfinity;
  if (max > -kInfinity) {
    summary.best = {static_cast<int32_t>(kernels.find(logits.data(), n, max)), max};
  }
  return summary;
}

double SumExp(absl::Span<const float> logits, float max, float inverse_temperature) {
  return Kernels().sum_exp(
      logits.data(), static_cast<int64_t>(logits.size()), max, inverse_temperature);
}

double LogSumExp(absl::Span<const float> logits, float max) {
  return max + std::log(SumExp(logits, max, 1.0f));
}

void TopK(absl::Span<const float> logits, int32_t k, std::vector<TokenLogit>& out) {
  out.clear();
  if (k <= 0) return;
  const auto limit = std::min(static_cast<size_t>(k), logits.size());
  // Candidates pile up to some multiple of k, then only the best k stay and the last of them
  // becomes the bar. Ids come in increasing order, so a later equal logit never displaces an
  // earlier one.
  const size_t pile = 2 * limit + 64;
  out.reserve(pile + 256);
  float bar = -kInfinity;
  const auto keep_best = [&] {
    if (out.size() <= limit) return;
    std::nth_element(out.begin(), out.begin() + limit - 1, out.end(), RanksBefore);
    out.resize(limit);
    bar = out.back().logit;
  };
  const auto threshold = [&] {
    if (out.size() >= pile) keep_best();
    return bar;
  };
  ForEachPast(logits, /*strict=*/true, threshold, [&](int32_t id, float logit) {
    out.push_back({id, logit});
  });
  keep_best();
  std::sort(out.begin(), out.end(), RanksBefore);
}

void CollectAtLeast(absl::Span<const float> logits, float threshold, std::vector<TokenLogit>& out) {
  out.clear();
  ForEachPast(
      logits,
      /*strict=*/false,
      [&] { return threshold; },
      [&](int32_t id, float logit) {
        out.push_back({id, logit});
      });
}

int64_t CountGreater(absl::Span<const float> logits, float value) {
  return Kernels().count_greater(logits.data(), static_cast<int64_t>(logits.size()), value);
}

}  // namespace paceline::kernels
