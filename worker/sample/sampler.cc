#include "worker/sample/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "kernels/sampling/logits.h"
#include "proto/support/log.h"
#include "worker/sample/gumbel.h"
#include "worker/sample/truncation.h"

namespace paceline::worker {
namespace {

using kernels::TokenLogit;

constexpr float kMasked = -std::numeric_limits<float>::infinity();
constexpr TokenLogit kLastOfAll = {std::numeric_limits<int32_t>::max(), kMasked};

// The row while the request's wishes are written into it; remembers what was there.
class EditedRow {
 public:
  explicit EditedRow(absl::Span<float> logits) : logits_(logits) { undo_.clear(); }

  // Ignores ids outside the row, and keeps masked logits masked.
  template <typename F>  // double(double logit)
  void Change(int32_t id, F change) {
    if (id < 0 || id >= static_cast<int64_t>(logits_.size())) return;
    float& logit = logits_[id];
    if (logit == kMasked) return;
    undo_.emplace_back(id, logit);
    constexpr double kMax = std::numeric_limits<float>::max();
    logit = static_cast<float>(std::clamp(change(logit), -kMax, kMax));
  }

  void Mask(int32_t id) {
    if (id < 0 || id >= static_cast<int64_t>(logits_.size())) return;
    undo_.emplace_back(id, logits_[id]);
    logits_[id] = kMasked;
  }

  void Restore() {
    for (auto it = undo_.rbegin(); it != undo_.rend(); ++it) logits_[it->first] = it->second;
    undo_.clear();
  }

  bool changed() const { return !undo_.empty(); }
  absl::Span<const float> logits() const { return logits_; }

 private:
  static thread_local std::vector<std::pair<int32_t, float>> undo_;
  absl::Span<float> logits_;
};

thread_local std::vector<std::pair<int32_t, float>> EditedRow::undo_;

// Steps 3 to 6 of the pipeline.
void ApplyRequest(const SamplingParams& params,
                  int32_t position,
                  const SamplerState& state,
                  absl::Span<const int32_t> eos_ids,
                  EditedRow& row) {
  for (const auto& [id, bias] : params.logit_bias) {
    row.Change(id, [bias = bias](double logit) { return logit + bias; });
  }
  if (position < params.min_tokens) {
    for (int32_t id : params.stop_token_ids) row.Mask(id);
    if (!params.ignore_eos) {
      for (int32_t id : eos_ids) row.Mask(id);
    }
  }
  const double repetition = params.repetition_penalty;
  for (const SamplerState::SeenToken& token : state.seen()) {
    row.Change(token.id, [&](double logit) {
      logit = logit > 0 ? logit / repetition : logit * repetition;
      logit -= static_cast<double>(token.output_count) * params.frequency_penalty;
      return token.output_count > 0 ? logit - params.presence_penalty : logit;
    });
  }
}

bool AllFinite(const kernels::LogitSummary& summary, absl::Span<const float> logits) {
  return summary.finite &&
         kernels::CountGreater(logits, kMasked) == static_cast<int64_t>(logits.size());
}

TokenLogprobs LogprobsOf(absl::Span<const float> logits,
                         const TokenLogit& best,
                         int32_t token,
                         int32_t k) {
  static thread_local std::vector<TokenLogit> likeliest;
  const double log_sum = kernels::LogSumExp(logits, best.logit);
  const auto logprob = [log_sum](float logit) {
    return static_cast<float>(std::min(0.0, logit - log_sum));
  };
  TokenLogprobs result;
  result.logprob = logprob(logits[token]);
  result.rank = static_cast<int32_t>(kernels::CountGreater(logits, logits[token])) + 1;
  if (k > 0) {
    kernels::TopK(logits, k, likeliest);
    result.top.reserve(likeliest.size());
    for (const TokenLogit& t : likeliest) result.top.emplace_back(t.id, logprob(t.logit));
  }
  return result;
}

// Steps 8 to 12 on the whole row.
int32_t DrawFromRow(const TruncationParams& truncation,
                    absl::Span<const float> logits,
                    const TokenLogit& best,
                    const NoiseStream& noise,
                    std::vector<TokenLogit>& kept) {
  const double inverse_temperature = truncation.inverse_temperature;
  if (KeepsEverything(truncation, static_cast<int64_t>(logits.size()))) {
    return PickFromRow(logits, best, kLastOfAll, noise, inverse_temperature);
  }
  TruncateRow(truncation, logits, best, kept);
  // Both draw the same token; by blocks is faster when there are many.
  constexpr size_t kManyCandidates = 512;
  if (kept.size() < kManyCandidates) return PickFromCandidates(kept, noise, inverse_temperature);
  const TokenLogit last = *std::max_element(kept.begin(), kept.end(), kernels::RanksBefore);
  return PickFromRow(logits, best, last, noise, inverse_temperature);
}

// Steps 7 to 12; -1 when nothing is left.
int32_t Choose(const SamplingParams& params,
               const SamplerState& state,
               const NoiseStream& noise,
               absl::Span<const float> logits,
               const TokenLogit& best) {
  static thread_local std::vector<TokenLogit> candidates;
  const bool greedy = params.temperature < kGreedyTemperature;
  const TruncationParams truncation = {
      .inverse_temperature = greedy ? 1.0 : 1.0 / static_cast<double>(params.temperature),
      .min_p = params.min_p,
      .top_k = params.top_k,
      .top_p = params.top_p};
  if (state.allowed().empty()) {
    if (best.id < 0 || greedy) return best.id;
    return DrawFromRow(truncation, logits, best, noise, candidates);
  }
  candidates.clear();
  for (int32_t id : state.allowed()) {
    if (id < 0 || id >= static_cast<int64_t>(logits.size()) || logits[id] == kMasked) continue;
    candidates.push_back({id, logits[id]});
  }
  if (candidates.empty()) return -1;
  if (greedy) {
    return std::min_element(candidates.begin(), candidates.end(), kernels::RanksBefore)->id;
  }
  TruncateCandidates(truncation, candidates);
  return PickFromCandidates(candidates, noise, truncation.inverse_temperature);
}

}  // namespace

SamplerState SamplerState::Create(const Request& request,
                                  int32_t choice_index,
                                  absl::Span<const int32_t> prompt,
                                  absl::Span<const int32_t> output) {
  const SamplingParams& params = request.sampling;
  SamplerState state;
  state.choice_index_ = choice_index;
  state.counts_prompt_ = params.repetition_penalty != 1.0F;
  state.counts_output_ =
      state.counts_prompt_ || params.frequency_penalty != 0.0F || params.presence_penalty != 0.0F;
  state.allowed_ = params.allowed_token_ids;
  std::sort(state.allowed_.begin(), state.allowed_.end());
  state.allowed_.erase(std::unique(state.allowed_.begin(), state.allowed_.end()),
                       state.allowed_.end());
  if (state.counts_prompt_) {
    for (int32_t token : prompt) state.Count(token, 0);
  }
  for (int32_t token : output) state.Append(token);
  return state;
}

void SamplerState::Append(int32_t token) {
  if (counts_output_) Count(token, 1);
}

void SamplerState::Count(int32_t token, int32_t output_occurrences) {
  const auto [it, inserted] = seen_index_.try_emplace(token, static_cast<int32_t>(seen_.size()));
  if (inserted) seen_.push_back({token, 0});
  seen_[it->second].output_count += output_occurrences;
}

SampleResult Sample(absl::Span<float> logits,
                    const Request& request,
                    int32_t choice_index,
                    int32_t position,
                    const SamplerState* state,
                    absl::Span<const int32_t> eos_ids) {
  PACELINE_CHECK(!logits.empty() && state->choice_index() == choice_index, "state of another row");
  const SamplingParams& params = request.sampling;
  SampleResult result;
  const kernels::LogitSummary raw = kernels::ArgMax(logits);
  if (!AllFinite(raw, logits)) {
    result.numeric_error = true;
    return result;
  }
  EditedRow row(logits);
  ApplyRequest(params, position, *state, eos_ids, row);
  const TokenLogit best =
      row.changed() && state->allowed().empty() ? kernels::ArgMax(row.logits()).best : raw.best;
  const NoiseStream noise = {.seed = request.seed,
                             .choice = static_cast<uint32_t>(choice_index),
                             .position = static_cast<uint32_t>(position)};
  result.token_id = Choose(params, *state, noise, row.logits(), best);
  if (result.token_id < 0) {
    result.no_candidate = true;
  } else if (params.logprobs >= 0) {
    row.Restore();
    result.has_logprobs = true;
    result.logprobs = LogprobsOf(logits, raw.best, result.token_id, params.logprobs);
  }
  return result;
}

bool TakesTheBest(const SamplingParams& params, int32_t position) {
  return params.temperature < kGreedyTemperature && params.logprobs < 0 &&
         params.logit_bias.empty() && params.allowed_token_ids.empty() &&
         position >= params.min_tokens && params.repetition_penalty == 1.0F &&
         params.frequency_penalty == 0.0F && params.presence_penalty == 0.0F;
}

TokenLogprobs PromptLogprobs(absl::Span<const float> logits, int32_t actual_token, int32_t k) {
  const kernels::LogitSummary summary = kernels::ArgMax(logits);
  if (!AllFinite(summary, logits)) return {};
  return LogprobsOf(logits, summary.best, actual_token, k);
}

}  // namespace paceline::worker
