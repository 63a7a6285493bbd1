#include "worker/sample/truncation.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace paceline::worker {
namespace {

using kernels::RanksBefore;
using kernels::TokenLogit;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Probability relative to the likeliest token's, whose logit is `largest`.
struct Weight {
  double largest;
  double inverse_temperature;
  double operator()(const TokenLogit& token) const {
    return std::exp((token.logit - largest) * inverse_temperature);
  }
};

template <typename Iterator>
double Mass(Iterator begin, Iterator end, const Weight& weight) {
  double mass = 0;
  for (; begin != end; ++begin) mass += weight(*begin);
  return mass;
}

// Leaves the shortest run of best-ranked tokens whose weights reach `target`, at least one. False,
// changing nothing but the order, when all of them do not reach it. Linear time: halves the range
// that holds the run's end until it is small enough to sort.
bool KeepMass(const Weight& weight, double target, std::vector<TokenLogit>& tokens) {
  constexpr ptrdiff_t kSortBelow = 64;
  auto low = tokens.begin();
  auto high = tokens.end();
  double mass = 0;  // of the tokens before `low`
  while (high - low > kSortBelow) {
    const auto middle = low + (high - low) / 2;
    std::nth_element(low, middle, high, RanksBefore);
    const double half = Mass(low, middle, weight);
    if (mass + half >= target) {
      high = middle;
    } else {
      mass += half;
      low = middle;
    }
  }
  std::sort(low, high, RanksBefore);
  while (low != high && mass < target) mass += weight(*low++);
  // The sums of a half may round differently one by one: then its end is the run's end all the
  // same.
  if (mass < target && high == tokens.end()) return false;
  tokens.erase(low == tokens.begin() ? low + 1 : low, tokens.end());
  return true;
}

void ApplyMinP(const TruncationParams& params, float largest, std::vector<TokenLogit>& tokens) {
  if (params.min_p <= 0) return;
  const double limit = std::log(params.min_p);
  std::erase_if(tokens, [&](const TokenLogit& token) {
    return (static_cast<double>(token.logit) - largest) * params.inverse_temperature < limit;
  });
}

void ApplyTopP(const TruncationParams& params, float largest, std::vector<TokenLogit>& tokens) {
  if (params.top_p >= 1) return;
  const Weight weight = {largest, params.inverse_temperature};
  KeepMass(weight, params.top_p * Mass(tokens.begin(), tokens.end(), weight), tokens);
}

// A threshold for CollectAtLeast that lets through every token within `distance` (>= 0) of the best
// after temperature, and perhaps a few more.
float Threshold(float largest, double distance, double inverse_temperature) {
  const double exact = largest - distance / inverse_temperature;
  if (exact <= -std::numeric_limits<float>::max()) return -std::numeric_limits<float>::max();
  return std::nextafter(static_cast<float>(exact), -kInfinity);
}

// top_p alone: widens the collected range until it holds top_p of the whole row's mass.
void TopPOfRow(const TruncationParams& params,
               absl::Span<const float> logits,
               const TokenLogit& best,
               std::vector<TokenLogit>& kept) {
  constexpr double kStep = 4;  // nats
  constexpr double kWidest =
      48;  // what is below weighs less than 2^-49 of the best even if 2^20 ids
  const double total =
      kernels::SumExp(logits, best.logit, static_cast<float>(params.inverse_temperature));
  const Weight weight = {best.logit, params.inverse_temperature};
  for (double width = kStep;; width += kStep) {
    const bool is_all = width > kWidest;
    const float threshold = is_all ? -std::numeric_limits<float>::max()
                                   : Threshold(best.logit, width, params.inverse_temperature);
    kernels::CollectAtLeast(logits, threshold, kept);
    if (KeepMass(weight, params.top_p * total, kept) || is_all) return;
  }
}

}  // namespace

bool KeepsEverything(const TruncationParams& params, int64_t vocab_size) {
  return params.min_p <= 0 && params.top_p >= 1 &&
         (params.top_k <= 0 || params.top_k >= vocab_size);
}

void TruncateRow(const TruncationParams& params,
                 absl::Span<const float> logits,
                 const TokenLogit& best,
                 std::vector<TokenLogit>& kept) {
  const int64_t vocab_size = static_cast<int64_t>(logits.size());
  if (params.top_k > 0 && params.top_k < vocab_size) {
    kernels::TopK(logits, params.top_k, kept);
    ApplyMinP(params, best.logit, kept);
    ApplyTopP(params, best.logit, kept);
  } else if (params.min_p > 0) {
    kernels::CollectAtLeast(
        logits, Threshold(best.logit, -std::log(params.min_p), params.inverse_temperature), kept);
    ApplyMinP(params, best.logit, kept);
    ApplyTopP(params, best.logit, kept);
  } else if (params.top_p < 1) {
    TopPOfRow(params, logits, best, kept);
  } else {
    kernels::CollectAtLeast(logits, -std::numeric_limits<float>::max(), kept);
  }
}

void TruncateCandidates(const TruncationParams& params, std::vector<TokenLogit>& candidates) {
  const float largest = std::min_element(candidates.begin(), candidates.end(), RanksBefore)->logit;
  ApplyMinP(params, largest, candidates);
  if (params.top_k > 0 && params.top_k < static_cast<int64_t>(candidates.size())) {
    std::nth_element(
        candidates.begin(), candidates.begin() + params.top_k, candidates.end(), RanksBefore);
    candidates.resize(params.top_k);
  }
  ApplyTopP(params, largest, candidates);
}

}  // namespace paceline::worker
