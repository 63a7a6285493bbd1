// The best token of a row, bound by reading the logits once; and the tokens that were chosen as the
// next step's ids.
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

constexpr int32_t kTakeThreads = 128;

__global__ void TakeChosenKernel(DeviceChosenTokens chosen,
                                 const int32_t* rows,
                                 int32_t count,
                                 int32_t* ids) {
  const int64_t i = int64_t{device::BlockPosition().x} * kTakeThreads + device::ThreadPosition().x;
  if (i >= count) return;
  const int32_t row = rows[i];
  ids[i] = row < chosen.num_best ? chosen.best[row].id : chosen.tokens[row - chosen.num_best];
}

}  // namespace

absl::Status DeviceTakeChosen(device::Stream stream,
                              const DeviceChosenTokens& chosen,
                              const int32_t* rows,
                              int32_t count,
                              int32_t* ids) {
  if (count < 1) {
    return absl::InvalidArgumentError(absl::StrCat("DeviceTakeChosen: count ", count));
  }
  const int32_t blocks = (count + kTakeThreads - 1) / kTakeThreads;
  return device::Launch(
      stream, {blocks}, {kTakeThreads}, 0, TakeChosenKernel, chosen, rows, count, ids);
}

absl::Status DeviceArgMax(device::Stream stream,
                          const DeviceLogits& logits,
                          DeviceBestLogit* best) {
  if (auto status = CheckLogits("DeviceArgMax", logits); !status.ok()) return status;
  return device::Launch(
      stream, {logits.num_rows}, {kRowThreads}, sizeof(RowScratch), ArgMaxKernel, logits, best);
}

}  // namespace paceline::kernels
