// min_p, top_k and top_p each keep a run of the best-ranked tokens, so together they are one last
// token, and the draw is the largest of logit * inverse_temperature + Gumbel noise down to it.
// Reads the logits, which the second-level cache holds by then, once or twice for each of the three
// that is on, and once to draw.
#include "absl/strings/str_cat.h"
#include "kernels/sampling/philox.cuh"
#include "kernels/sampling/select_tokens.cuh"

namespace paceline::kernels {
namespace {

// As in worker/sample/gumbel.h.
constexpr double kLog2 = 0.69314718055994530942;
constexpr double kMaxGumbel = 33 * kLog2;

// Probabilities relative to the best token's, in units of 2^-40: whole numbers.
constexpr double kOne = 1099511627776.0;
constexpr double kNothing = -28;  // its exponential is less than 2^-40

__device__ __forceinline__ double GumbelFromWord(uint32_t word) {
  const double u = (static_cast<double>(word) + 0.5) * (1.0 / 4294967296.0);
  return -device::Log64(-device::Log64(u));
}

// At least GumbelFromWord(word), without a logarithm.
__device__ __forceinline__ double GumbelUpperBound(uint32_t word) {
  const uint64_t odd = 2 * static_cast<uint64_t>(~word) + 1;
  return kLog2 * (device::CountLeadingZeros(odd) - 30);
}

// A double as an integer of the same order.
__device__ __forceinline__ uint64_t Ordered64(double x) {
  const uint64_t bits = device::DoubleBits(x + 0.0);
  constexpr uint64_t kSign = uint64_t{1} << 63;
  return (bits & kSign) != 0 ? ~bits : bits | kSign;
}

// The noise of a row's tokens; remembers the last four words.
class Noise {
 public:
  __device__ explicit Noise(const DeviceSampleRow& row) : row_(row), group_(0xffffffffu) {}

  __device__ uint32_t Word(int32_t id) {
    const uint32_t group = static_cast<uint32_t>(id) / 4;
    if (group != group_) {
      group_ = group;
      words_ = Philox({{group, row_.position, row_.choice, 0}}, row_.seed);
    }
    return words_.words[id % 4];
  }

 private:
  const DeviceSampleRow& row_;
  uint32_t group_;
  PhiloxWords words_ = {};
};

// The key of the last token that may be drawn.
__device__ uint64_t LastToken(const RowTokens& tokens,
                              const DeviceSampleRow& row,
                              uint64_t best,
                              RowScratch& scratch) {
  const double largest = LogitOf(best);
  const auto scaled = [&](float logit) { return (logit - largest) * row.inverse_temperature; };
  const auto in_min_p = [&](float logit) { return !(scaled(logit) < row.log_min_p); };
  uint64_t last = 0;
  if (row.top_k > 0) {
    const auto one = [&](float logit) -> uint64_t { return in_min_p(logit) ? 1 : 0; };
    last = FindLast(tokens, best, static_cast<uint64_t>(row.top_k), one, scratch);
  }
  if (row.top_p < 1) {
    const auto mass = [&](float logit) -> uint64_t {
      const double x = scaled(logit);
      return x < kNothing || !in_min_p(logit) ? 0 : static_cast<uint64_t>(device::Exp64(x) * kOne);
    };
    uint64_t total = 0;
    tokens.ForEach([&](float logit, int32_t id) {
      if (KeyOf(logit, id) >= last) total += mass(logit);
    });
    total = device::BlockSum<kRowWarps>(total, scratch.reduce);
    const double share = device::Ceil64(row.top_p * static_cast<double>(total));
    const uint64_t target = share < 1 ? 1 : static_cast<uint64_t>(share);
    const uint64_t end = FindLast(tokens, best, target, mass, scratch);
    last = end > last ? end : last;
  }
  return last;
}

// The winner's id.
__device__ int32_t Draw(const RowTokens& tokens,
                        const DeviceSampleRow& row,
                        uint64_t best,
                        uint64_t last,
                        RowScratch& scratch) {
  const double largest = LogitOf(best);
  Noise noise(row);
  // The token to beat, and by whom a thread has beaten it.
  double score = GumbelFromWord(noise.Word(IdOf(best)));
  int32_t winner = IdOf(best);
  tokens.ForEach([&](float logit, int32_t id) {
    const double scaled = (logit - largest) * row.inverse_temperature;
    if (scaled < row.log_min_p || KeyOf(logit, id) < last || score - scaled > kMaxGumbel) return;
    const uint32_t word = noise.Word(id);
    if (score - scaled > GumbelUpperBound(word)) return;
    const double own = scaled + GumbelFromWord(word);
    if (own > score || (own == score && id < winner)) {
      score = own;
      winner = id;
    }
  });
  const uint64_t most = device::BlockMax<kRowWarps>(Ordered64(score), scratch.reduce);
  const uint64_t mine = Ordered64(score) == most ? ~static_cast<uint32_t>(winner) : 0;
  return IdOf(device::BlockMax<kRowWarps>(mine, scratch.reduce));
}

__global__ void SampleKernel(DeviceLogits logits,
                             const DeviceSampleRow* rows,
                             const int32_t* allowed,
                             int32_t* chosen) {
  const int64_t i = device::BlockPosition().x;
  const DeviceSampleRow row = rows[i];
  RowTokens tokens = AllTokens(logits, i);
  if (row.num_allowed > 0) {
    tokens.allowed = allowed + row.first_allowed;
    tokens.num_allowed = row.num_allowed;
  }
  const uint64_t best = BestKey(tokens);
  int32_t token = best == 0 ? -1 : IdOf(best);
  if (best != 0 && row.inverse_temperature > 0) {
    token = Draw(tokens, row, best, LastToken(tokens, row, best, Scratch()), Scratch());
  }
  if (device::ThreadPosition().x == 0) chosen[i] = token;
}

}  // namespace

absl::Status DeviceSample(device::Stream stream,
                          const DeviceLogits& logits,
                          const DeviceSampleRow* rows,
                          const int32_t* allowed,
                          int32_t* tokens) {
  if (auto status = CheckLogits("DeviceSample", logits); !status.ok()) return status;
  return device::Launch(stream,
                        {logits.num_rows},
                        {kRowThreads},
                        sizeof(RowScratch),
                        SampleKernel,
                        logits,
                        rows,
                        allowed,
                        tokens);
}

}  // namespace paceline::kernels
