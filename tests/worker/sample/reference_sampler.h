// The sampler by its definition: double arithmetic, full sorts, noise for every token. The oracle
// of the sampler's tests; slow.
#ifndef PACELINE_TESTS_WORKER_SAMPLE_REFERENCE_SAMPLER_H_
#define PACELINE_TESTS_WORKER_SAMPLE_REFERENCE_SAMPLER_H_

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "worker/core/request.h"
#include "worker/sample/philox.h"

namespace paceline::worker::reference {

inline constexpr double kMasked = -std::numeric_limits<double>::infinity();

// Pipeline steps 2 to 6.
inline std::vector<double> EditedLogits(const std::vector<float>& row,
                                        const SamplingParams& params,
                                        const std::vector<int32_t>& prompt,
                                        const std::vector<int32_t>& output,
                                        const std::vector<int32_t>& eos_ids) {
  std::vector<double> logits(row.begin(), row.end());
  const auto inside = [&](int32_t id) { return id >= 0 && id < static_cast<int>(row.size()); };
  if (!params.allowed_token_ids.empty()) {
    const std::set<int32_t> allowed(params.allowed_token_ids.begin(),
                                    params.allowed_token_ids.end());
    for (size_t i = 0; i < logits.size(); ++i) {
      if (!allowed.contains(static_cast<int32_t>(i))) logits[i] = kMasked;
    }
  }
  for (const auto& [id, bias] : params.logit_bias) {
    if (inside(id)) logits[id] += bias;
  }
  if (static_cast<int32_t>(output.size()) < params.min_tokens) {
    for (int32_t id : params.stop_token_ids) {
      if (inside(id)) logits[id] = kMasked;
    }
    for (int32_t id : eos_ids) {
      if (inside(id) && !params.ignore_eos) logits[id] = kMasked;
    }
  }
  std::map<int32_t, int> counts;
  for (int32_t id : output) ++counts[id];
  std::set<int32_t> seen(prompt.begin(), prompt.end());
  seen.insert(output.begin(), output.end());
  const double r = params.repetition_penalty;
  for (int32_t id : seen) {
    if (inside(id)) logits[id] = logits[id] > 0 ? logits[id] / r : logits[id] * r;
  }
  for (const auto& [id, count] : counts) {
    if (inside(id)) logits[id] -= count * static_cast<double>(params.frequency_penalty);
    if (inside(id)) logits[id] -= params.presence_penalty;
  }
  return logits;
}

// Probabilities after steps 8 to 11 (or the single greedy choice); all zero when nothing is left.
inline std::vector<double> Probabilities(const std::vector<double>& logits,
                                         const SamplingParams& params) {
  std::vector<double> p(logits.size(), 0.0);
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::erase_if(order, [&](int32_t i) { return logits[i] == kMasked; });
  std::stable_sort(
      order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (order.empty()) return p;
  if (params.temperature < kGreedyTemperature) {
    p[order[0]] = 1;
    return p;
  }
  const auto normalise = [&] {
    double sum = 0;
    for (int32_t i : order) {
      p[i] = std::exp((logits[i] - logits[order[0]]) / static_cast<double>(params.temperature));
      sum += p[i];
    }
    for (int32_t i : order) p[i] /= sum;
  };
  const auto keep = [&](size_t count) {
    for (size_t i = count; i < order.size(); ++i) p[order[i]] = 0;
    order.resize(count);
    normalise();
  };
  normalise();
  size_t count = order.size();
  while (p[order[count - 1]] < params.min_p * p[order[0]] * (1 - 1e-12)) --count;
  keep(count);
  if (params.top_k > 0) keep(std::min<size_t>(params.top_k, order.size()));
  if (params.top_p < 1) {
    double sum = 0;
    count = 0;
    while (count < order.size() && (count == 0 || sum < params.top_p)) sum += p[order[count++]];
    keep(count);
  }
  return p;
}

// Gumbel-max over every token with a probability, all noise computed.
inline int32_t Pick(const std::vector<double>& probabilities,
                    uint64_t seed,
                    uint32_t choice,
                    uint32_t position) {
  int32_t best = -1;
  double best_score = kMasked;
  for (size_t id = 0; id < probabilities.size(); ++id) {
    if (probabilities[id] <= 0) continue;
    const uint32_t word =
        Philox4x32({static_cast<uint32_t>(id / 4), position, choice, 0},
                   {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)})[id % 4];
    const double u = (word + 0.5) / 4294967296.0;
    const double score = std::log(probabilities[id]) - std::log(-std::log(u));
    if (score > best_score) {
      best_score = score;
      best = static_cast<int32_t>(id);
    }
  }
  return best;
}

}  // namespace paceline::worker::reference

#endif  // PACELINE_TESTS_WORKER_SAMPLE_REFERENCE_SAMPLER_H_
