#include "worker/sample/gumbel.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "worker/sample/philox_block.h"

namespace paceline::worker {
namespace {

PhiloxKey Key(const NoiseStream& stream) {
  return {static_cast<uint32_t>(stream.seed), static_cast<uint32_t>(stream.seed >> 32)};
}

PhiloxCounter Counter(const NoiseStream& stream, int32_t token_id) {
  return {static_cast<uint32_t>(token_id) / 4, stream.position, stream.choice, 0};
}

// The best score so far.
class Winner {
 public:
  // `best` is the token of the largest logit.
  Winner(const kernels::TokenLogit& best, uint32_t word, double inverse_temperature)
      : largest_(best.logit),
        inverse_temperature_(inverse_temperature),
        score_(GumbelFromWord(word)),
        id_(best.id) {}

  // How far below the best score a logit is.
  double Distance(float logit) const { return score_ - Scaled(logit); }

  void Offer(const kernels::TokenLogit& token, uint32_t word) {
    if (Distance(token.logit) > GumbelUpperBound(word)) return;
    const double score = Scaled(token.logit) + GumbelFromWord(word);
    if (score > score_ || (score == score_ && token.id < id_)) {
      score_ = score;
      id_ = token.id;
    }
  }

  int32_t id() const { return id_; }

 private:
  double Scaled(float logit) const { return (logit - largest_) * inverse_temperature_; }

  const double largest_;
  const double inverse_temperature_;
  double score_;
  int32_t id_;
};

}  // namespace

uint32_t NoiseWord(const NoiseStream& stream, int32_t token_id) {
  return Philox4x32(Counter(stream, token_id), Key(stream))[token_id & 3];
}

double GumbelFromWord(uint32_t word) {
  const double u = (static_cast<double>(word) + 0.5) * 0x1p-32;  // exact: 33 bits
  return -std::log(-std::log(u));
}

double GumbelUpperBound(uint32_t word) {
  // v = (2 * complement + 1) / 2^33 with complement = 2^32 - 1 - word, and -log(v) is at most
  // log(2^33 / 2^floor(log2(2 * complement + 1))).
  const uint64_t odd = 2 * uint64_t{~word} + 1;
  return kLog2 * (34 - std::bit_width(odd));
}

uint32_t GumbelCutoff(double distance) {
  if (!(distance > 0)) return 0;
  // v <= exp(-distance) <= 2^-n means 2^32 - word <= 2^(32 - n) + 1/2.
  const int n = static_cast<int>(std::min(distance / kLog2, 33.0));
  if (n == 0) return 0;
  const uint64_t span = n > 32 ? 1 : (uint64_t{1} << (32 - n)) + 1;
  return static_cast<uint32_t>((uint64_t{1} << 32) - span);
}

int32_t PickFromCandidates(absl::Span<const kernels::TokenLogit> candidates,
                           const NoiseStream& stream,
                           double inverse_temperature) {
  const kernels::TokenLogit& best =
      *std::min_element(candidates.begin(), candidates.end(), kernels::RanksBefore);
  Winner winner(best, NoiseWord(stream, best.id), inverse_temperature);
  for (const kernels::TokenLogit& token : candidates) {
    if (winner.Distance(token.logit) > kMaxGumbel) continue;
    winner.Offer(token, NoiseWord(stream, token.id));
  }
  return winner.id();
}

int32_t PickFromRow(absl::Span<const float> logits,
                    const kernels::TokenLogit& best,
                    const kernels::TokenLogit& last,
                    const NoiseStream& stream,
                    double inverse_temperature) {
  const PhiloxBlockTable& block = kernels::Select(kPhiloxBlock);
  const PhiloxKey key = Key(stream);
  const int32_t size = static_cast<int32_t>(logits.size());
  Winner winner(best, NoiseWord(stream, best.id), inverse_temperature);
  uint32_t words[4][kPhiloxBlockCounters];
  for (int32_t start = 0; start < size; start += kPhiloxBlockTokens) {
    const int32_t end = std::min(start + kPhiloxBlockTokens, size);
    const float largest = end - start == kPhiloxBlockTokens
                              ? block.max64(&logits[start])
                              : *std::max_element(&logits[start], &logits[start] + (end - start));
    if (largest < last.logit) continue;
    const double distance = winner.Distance(largest);
    if (!(distance <= kMaxGumbel)) continue;
    const uint32_t cutoff = GumbelCutoff(distance);
    if (!block.words_at_least(Counter(stream, start).data(), key.data(), cutoff, words)) continue;
    for (int32_t id = start; id < end; ++id) {
      const uint32_t word = words[id & 3][(id - start) / 4];
      if (word < cutoff) continue;
      const kernels::TokenLogit token = {id, logits[id]};
      if (!kernels::RanksBefore(last, token)) winner.Offer(token, word);
    }
  }
  return winner.id();
}

}  // namespace paceline::worker
