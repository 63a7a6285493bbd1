// Drawing from a softmax by the Gumbel-max rule: the token with the largest score
//   (logit - largest logit) / temperature + g(token)
// is distributed as softmax(logits / temperature) when the g are independent standard Gumbel
// variates. The noise of a token is a function of (seed, choice, position, token id) alone, so it
// is the same for any candidate set, batch, thread count or device, and it needs no state.
// Stateless; any thread.
//
// The stream: Philox4x32-10 with key (seed mod 2^32, seed / 2^32) and counter
// (token_id / 4, position, choice, 0) gives the words of tokens 4j .. 4j+3. A word x becomes
//   u = (x + 1/2) / 2^32,   g = -log(-log(u)).
//
// Bounds (checked by tests/worker/sample/gumbel_test.cc), with v = 1 - u = (2^32 - x - 1/2) / 2^32:
//   g <= -log(v), because -log(1 - v) >= v. Hence g <= kMaxGumbel = 33 log 2, nearly reached at
//   x = 2^32 - 1; and g >= kMinGumbel, at x = 0.
//
//   A token whose logit / temperature is d below the best score so far can win only if g >= d, that
//   is v <= exp(-d), that is x >= GumbelCutoff(d). So most tokens of a row are ruled out by one
//   integer comparison without a logarithm, and those with d > kMaxGumbel without noise.
//
//   The slack of the first inequality is at least v / 2 > 5e-11, far above the rounding of scores
//   near the largest one (about 1e-14), so ruling out never changes the winner.
#ifndef PACELINE_WORKER_SAMPLE_GUMBEL_H_
#define PACELINE_WORKER_SAMPLE_GUMBEL_H_

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/sampling/logits.h"
#include "worker/sample/philox.h"

namespace paceline::worker {

// Names the noise of one row.
struct NoiseStream {
  uint64_t seed = 0;
  uint32_t choice = 0;
  uint32_t position = 0;  // output index of the token being chosen
};

inline constexpr double kLog2 = 0.69314718055994530942;
inline constexpr double kMaxGumbel = 33 * kLog2;  // 22.87...
inline constexpr double kMinGumbel = -3.1300;     // -log(33 log 2) = -3.129994641..., rounded down

// The 32 random bits of a token.
uint32_t NoiseWord(const NoiseStream& stream, int32_t token_id);

// The Gumbel variate of a word, in [kMinGumbel, kMaxGumbel].
double GumbelFromWord(uint32_t word);

// An upper bound of GumbelFromWord(word) without a logarithm: -log(v) with v rounded down to a
// power of two.
double GumbelUpperBound(uint32_t word);

// A word w such that no word below w has a Gumbel variate of `distance` or more: the exact limit is
// at most twice as far from 2^32. 0 when distance <= 0.
uint32_t GumbelCutoff(double distance);

// The token of `candidates` with the largest score; lowest id among equals.
// REQUIRES: not empty, finite logits, distinct ids.
int32_t PickFromCandidates(absl::Span<const kernels::TokenLogit> candidates,
                           const NoiseStream& stream,
                           double inverse_temperature);

// The same over all tokens of the row that do not rank after `last` (kernels::RanksBefore); a row's
// worst token as `last` means the whole row. -infinity logits are never chosen.
// REQUIRES: `best` is the row's ArgMax and finite.
int32_t PickFromRow(absl::Span<const float> logits,
                    const kernels::TokenLogit& best,
                    const kernels::TokenLogit& last,
                    const NoiseStream& stream,
                    double inverse_temperature);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_SAMPLE_GUMBEL_H_
