#include "worker/sample/truncation.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace paceline::worker {
namespace {

using kernels::RanksBefore;
using kernels::TokenLogit;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A candidate with its probability relative to the likeliest one's.
struct Weighted {
  TokenLogit token;
  double weight;
};

bool WeightedRanksBefore(const Weighted& a, const Weighted& b) {
  return RanksBefore(a.token, b.token);
}

double Weigh(const std::vector<TokenLogit>& tokens,
             float largest,
             double inverse_temperature,
             std::vector<Weighted>& weighted) {
  weighted.clear();
  double total = 0;
  for (const TokenLogit& token : tokens) {
    const double weight =
        std::exp((static_cast<double>(token.logit) - largest) * inverse_temperature);
    weighted.push_back({token, weight});
    total += weight;
  }
  return total;
}

// Into `kept`: the shortest run of best-ranked tokens whose weights reach `target`, at least one.
// False, changing nothing but the order of `tokens`, when all of them do not reach it. Linear time:
// halves the range that holds the run's end until it is small enough to sort.
bool KeepMass(std::vector<Weighted>& tokens, double target, std::vector<TokenLogit>& kept) {
  constexpr ptrdiff_t kSortBelow = 64;
  auto low = tokens.begin();
  auto high = tokens.end();
  double mass = 0;  // of the tokens before `low`
  while (high - low > kSortBelow) {
    const auto middle = low + (high - low) / 2;
    std::nth_element(low, middle, high, WeightedRanksBefore);
    double half = 0;
    for (auto it = low; it != middle; ++it) half += it->weight;
    if (mass + half >= target) {
      high = middle;
    } else {
      mass += half;
      low = middle;
    }
  }
  std::sort(low, high, WeightedRanksBefore);
  while (low != high) {
    mass += low->weight;
    ++low;
    if (mass < target) continue;
    kept.clear();
    for (auto it = tokens.begin(); it != low; ++it) kept.push_back(it->token);
    return true;
  }
  // The sums above may round differently from the target's.
  if (high != tokens.end()) {
    kept.clear();
    for (auto it = tokens.begin(); it != high; ++it) kept.push_back(it->token);
    return true;
  }
  return false;
}

std::vector<Weighted>& Scratch() {
  static thread_local std::vector<Weighted> scratch;
  return scratch;
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
  std::vector<Weighted>& weighted = Scratch();
  const double total = Weigh(tokens, largest, params.inverse_temperature, weighted);
  KeepMass(weighted, params.top_p * total, tokens);
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
  std::vector<Weighted>& weighted = Scratch();
  for (double width = kStep;; width += kStep) {
    const float threshold = width > kWidest
                                ? -std::numeric_limits<float>::max()
                                : Threshold(best.logit, width, params.inverse_temperature);
    kernels::CollectAtLeast(logits, threshold, kept);
    Weigh(kept, best.logit, params.inverse_temperature, weighted);
    if (KeepMass(weighted, params.top_p * total, kept) || width > kWidest) return;
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
