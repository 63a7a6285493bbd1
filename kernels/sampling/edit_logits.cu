// A thread takes an id of a row's edits, whatever happens to it. Touches only the ids concerned.
#include "absl/strings/str_cat.h"
#include "kernels/sampling/select_tokens.cuh"

namespace paceline::kernels {
namespace {

constexpr int kThreads = 128;
constexpr double kLargest = 3.4028234663852886e38;  // float

// What one edit makes of a logit. What is masked stays masked, and nothing else becomes infinite.
__device__ __forceinline__ float Edited(float logit,
                                        const LogitEdit& edit,
                                        const LogitEditRow& row) {
  if (logit == -INFINITY || edit.kind == LogitEditKind::kMask) return -INFINITY;
  double value = logit;
  if (edit.kind == LogitEditKind::kBias) {
    value += edit.value;
  } else {
    const double repetition = row.repetition_penalty;
    value = value > 0 ? value / repetition : value * repetition;
    value -= static_cast<double>(edit.value) * row.frequency_penalty;
    if (edit.value > 0) value -= row.presence_penalty;
  }
  value = value < -kLargest ? -kLargest : value;
  return static_cast<float>(value > kLargest ? kLargest : value);
}

// Calls visit(i) for the first edit of each id inside the row that this thread has.
template <typename Visit>
__device__ __forceinline__ void ForEachId(const LogitEdits& edits,
                                          const LogitEditRow& row,
                                          int32_t vocab_size,
                                          Visit visit) {
  for (int32_t i = row.first + device::ThreadPosition().x; i < row.first + row.count;
       i += kThreads) {
    const int32_t id = edits.edits[i].id;
    const bool is_first = i == row.first || edits.edits[i - 1].id != id;
    if (is_first && id >= 0 && id < vocab_size) visit(i);
  }
}

__global__ void EditKernel(DeviceLogits logits, LogitEdits edits) {
  const LogitEditRow row = edits.rows[device::BlockPosition().x];
  ForEachId(edits, row, logits.vocab_size, [&](int32_t first) {
    float& logit = logits.data[row.row * logits.stride + edits.edits[first].id];
    edits.before[first] = logit;
    for (int32_t i = first; i < row.first + row.count && edits.edits[i].id == edits.edits[first].id;
         ++i) {
      logit = Edited(logit, edits.edits[i], row);
    }
  });
}

__global__ void RestoreKernel(DeviceLogits logits, LogitEdits edits) {
  const LogitEditRow row = edits.rows[device::BlockPosition().x];
  ForEachId(edits, row, logits.vocab_size, [&](int32_t first) {
    logits.data[row.row * logits.stride + edits.edits[first].id] = edits.before[first];
  });
}

absl::Status Run(device::Stream stream,
                 const char* op,
                 void (*kernel)(DeviceLogits, LogitEdits),
                 const DeviceLogits& logits,
                 const LogitEdits& edits) {
  if (auto status = CheckLogits(op, logits); !status.ok()) return status;
  if (edits.num_rows <= 0) {
    return absl::InvalidArgumentError(absl::StrCat(op, ": ", edits.num_rows, " rows of edits"));
  }
  return device::Launch(stream, {edits.num_rows}, {kThreads}, 0, kernel, logits, edits);
}

}  // namespace

absl::Status DeviceEditLogits(device::Stream stream,
                              const DeviceLogits& logits,
                              const LogitEdits& edits) {
  return Run(stream, "DeviceEditLogits", EditKernel, logits, edits);
}

absl::Status DeviceRestoreLogits(device::Stream stream,
                                 const DeviceLogits& logits,
                                 const LogitEdits& edits) {
  return Run(stream, "DeviceRestoreLogits", RestoreKernel, logits, edits);
}

}  // namespace paceline::kernels
