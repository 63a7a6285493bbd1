// Bound by reading the logits, which are in the second-level cache by then, a few times.
#include "absl/strings/str_cat.h"
#include "kernels/sampling/select_tokens.cuh"

namespace paceline::kernels {
namespace {

static_assert(kMaxTopLogprobs <= kMaxListed);

__device__ __forceinline__ float LogProbability(float logit, double log_sum) {
  const double value = logit - log_sum;
  return static_cast<float>(value < 0 ? value : 0);
}

__device__ void StoreTop(const RowTokens& tokens,
                         uint64_t best,
                         int32_t num_top,
                         double log_sum,
                         int64_t first,
                         const DeviceLogprobs& args,
                         RowScratch& scratch) {
  const auto one = [](float) -> uint64_t { return 1; };
  // Fewer tokens than asked for: all of them.
  const uint64_t last = FindLast(tokens, best, static_cast<uint64_t>(num_top), one, scratch);
  ListTokens(tokens, last, best, one, scratch);
  const auto count = static_cast<int>(scratch.num_listed);
  for (int i = device::ThreadPosition().x; i < count; i += kRowThreads) {
    const uint64_t key = scratch.keys[i];
    int rank = 0;
    for (int j = 0; j < count; ++j) rank += scratch.keys[j] > key ? 1 : 0;
    args.top_ids[first + rank] = IdOf(key);
    args.top_logprobs[first + rank] = LogProbability(LogitOf(key), log_sum);
  }
}

__global__ void LogprobsKernel(DeviceLogits logits, DeviceLogprobs args) {
  const int64_t i = device::BlockPosition().x;
  const DeviceLogprobRow row = args.rows[i];
  RowScratch& scratch = Scratch();
  const RowTokens tokens = AllTokens(logits, row.row);
  const uint64_t best = BestKey(tokens);
  const double largest = LogitOf(best);
  const int32_t token = args.tokens[row.row];
  const float own = token >= 0 && token < logits.vocab_size ? tokens.logits[token] : -INFINITY;
  double sum = 0;
  uint64_t greater = 0;
  tokens.ForEach([&](float logit, int32_t) {
    sum += device::Exp64(logit - largest);
    greater += logit > own ? 1 : 0;
  });
  sum = device::BlockSum<kRowWarps>(sum, reinterpret_cast<double*>(scratch.reduce));
  greater = device::BlockSum<kRowWarps>(greater, scratch.reduce);
  const double log_sum = largest + device::Log64(sum);
  if (device::ThreadPosition().x == 0) {
    args.logprobs[i] = LogProbability(own, log_sum);
    args.ranks[i] = static_cast<int32_t>(greater) + 1;
  }
  const int64_t first = i * args.max_top;
  const int32_t num_top = row.num_top < logits.vocab_size ? row.num_top : logits.vocab_size;
  for (int32_t j = num_top + device::ThreadPosition().x; j < args.max_top; j += kRowThreads) {
    args.top_ids[first + j] = -1;
    args.top_logprobs[first + j] = -INFINITY;
  }
  if (num_top > 0) StoreTop(tokens, best, num_top, log_sum, first, args, scratch);
}

}  // namespace

absl::Status DeviceComputeLogprobs(device::Stream stream,
                                   const DeviceLogits& logits,
                                   const DeviceLogprobs& args) {
  if (auto status = CheckLogits("DeviceComputeLogprobs", logits); !status.ok()) return status;
  if (args.num_rows <= 0 || args.max_top < 0 || args.max_top > kMaxTopLogprobs) {
    return absl::InvalidArgumentError(absl::StrCat("DeviceComputeLogprobs: ",
                                                   args.num_rows,
                                                   " rows, ",
                                                   args.max_top,
                                                   " likeliest: at most ",
                                                   kMaxTopLogprobs));
  }
  return device::Launch(
      stream, {args.num_rows}, {kRowThreads}, sizeof(RowScratch), LogprobsKernel, logits, args);
}

}  // namespace paceline::kernels
