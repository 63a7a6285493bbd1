// What a sampler needs to know about one row of logits, in passes over it; nothing here sorts the
// vocabulary. Stateless and single-threaded: any thread, rows may be split among the pool.
#ifndef PACELINE_KERNELS_SAMPLING_LOGITS_H_
#define PACELINE_KERNELS_SAMPLING_LOGITS_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace paceline::kernels {

struct TokenLogit {
  int32_t id;
  float logit;
};

// Order of everything below: higher logit first, lower id first among equals.
inline bool RanksBefore(const TokenLogit& a, const TokenLogit& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

struct LogitSummary {
  TokenLogit best;  // id -1 when every logit is -infinity or the row is empty
  bool finite;      // no NaN and no +infinity anywhere (-infinity is a masked token)
};

// The best token and whether the row is sound. `best` means nothing when finite is false.
LogitSummary ArgMax(absl::Span<const float> logits);

// log(sum(exp(logits))), summed in a fixed order with double partial sums; `max` is the largest
// logit (ArgMax's). log-probability of id = logits[id] - LogSumExp. -infinity logits add nothing.
double LogSumExp(absl::Span<const float> logits, float max);

// sum(exp((logits - max) * inverse_temperature)), fixed order, double partial sums.
double SumExp(absl::Span<const float> logits, float max, float inverse_temperature);

// The k best tokens in rank order (fewer when fewer are above -infinity), into `out`.
void TopK(absl::Span<const float> logits, int32_t k, std::vector<TokenLogit>& out);

// All tokens whose logit is at least `threshold`, by increasing id, into `out`.
void CollectAtLeast(absl::Span<const float> logits, float threshold, std::vector<TokenLogit>& out);

// Tokens whose logit is greater than `value`: the rank (from 0) of a token of that logit.
int64_t CountGreater(absl::Span<const float> logits, float value);

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_SAMPLING_LOGITS_H_
