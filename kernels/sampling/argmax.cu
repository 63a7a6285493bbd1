// Bound by reading the logits once.
#include "absl/strings/str_cat.h"
#include "kernels/sampling/select_tokens.cuh"

namespace paceline::kernels {
namespace {

__global__ void ArgMaxKernel(DeviceLogits logits, DeviceBestLogit* best) {
  const int64_t row = device::BlockPosition().x;
  const RowTokens tokens = AllTokens(logits, row);
  // Infinity minus itself and NaN minus itself are not 0.
  uint64_t num_not_finite = 0;
  for (int32_t i = device::ThreadPosition().x; i < logits.vocab_size; i += kRowThreads) {
    num_not_finite += tokens.logits[i] - tokens.logits[i] == 0.0f ? 0 : 1;
  }
  num_not_finite = device::BlockSum<kRowWarps>(num_not_finite, Scratch().reduce);
  const uint64_t key = BestKey(tokens);
  if (device::ThreadPosition().x != 0) return;
  best[row] = {.id = key == 0 ? -1 : IdOf(key),
               .logit = key == 0 ? -INFINITY : LogitOf(key),
               .all_finite = num_not_finite == 0 ? 1 : 0};
}

}  // namespace

absl::Status DeviceArgMax(device::Stream stream,
                          const DeviceLogits& logits,
                          DeviceBestLogit* best) {
  if (auto status = CheckLogits("DeviceArgMax", logits); !status.ok()) return status;
  return device::Launch(
      stream, {logits.num_rows}, {kRowThreads}, sizeof(RowScratch), ArgMaxKernel, logits, best);
}

}  // namespace paceline::kernels
