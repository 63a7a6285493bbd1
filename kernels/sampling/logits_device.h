// What is done with rows of logits on the device, so that only a token per row comes back; one
// thread block a row, nothing sorts the vocabulary. Stateless; enqueues on the stream; pointers are
// of device memory. Tokens rank by logit, lowest id first among equals.
//
// The order of the CPU's sampler (worker/sample/sampler.h): DeviceArgMax of the row as the model
// gave it; DeviceEditLogits; DeviceSample; DeviceRestoreLogits and DeviceLogprobs where asked for.
#ifndef PACELINE_KERNELS_SAMPLING_LOGITS_DEVICE_H_
#define PACELINE_KERNELS_SAMPLING_LOGITS_DEVICE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/device/stream.h"

namespace paceline::kernels {

// [num_rows, vocab_size] float32, rows `stride` elements apart.
struct DeviceLogits {
  float* data;
  int64_t stride;
  int32_t num_rows;
  int32_t vocab_size;
};

struct DeviceBestLogit {
  int32_t id;          // -1: every logit is -infinity or NaN
  float logit;         // -infinity with -1
  int32_t all_finite;  // 1: no NaN and no infinity in the row
};

// The best token of every row. All of the following return InvalidArgument for sizes that do not
// fit, and Internal when the launch fails.
absl::Status DeviceArgMax(device::Stream stream,
                          const DeviceLogits& logits,
                          DeviceBestLogit* best);  // [num_rows]

// Which token each row of logits was given: the best one for the first num_best rows, tokens[row -
// num_best] for the others.
struct DeviceChosenTokens {
  const DeviceBestLogit* best;
  int32_t num_best;
  const int32_t* tokens;
};

// ids[i] = the token of row rows[i]. Whoever has none gets -1.
absl::Status DeviceTakeChosen(device::Stream stream,
                              const DeviceChosenTokens& chosen,
                              const int32_t* rows,  // [count]
                              int32_t count,
                              int32_t* ids);  // [count]

// ---- What requests change in their rows

enum class LogitEditKind : int32_t {
  kBias,  // adds `value`
  kMask,  // -infinity
  kSeen,  // the row's penalties; `value`: occurrences in the output
};

struct LogitEdit {
  int32_t id;  // nothing happens outside the row
  LogitEditKind kind;
  float value;
};

// The edits of a row, sorted by id; those of one id in the order in which they apply.
struct LogitEditRow {
  int32_t row;
  int32_t first;
  int32_t count;
  float repetition_penalty;
  float frequency_penalty;
  float presence_penalty;
};

struct LogitEdits {
  const LogitEditRow* rows;  // [num_rows], of different rows
  const LogitEdit* edits;
  float* before;  // as many as edits: what to restore
  int32_t num_rows;
};

absl::Status DeviceEditLogits(device::Stream stream,
                              const DeviceLogits& logits,
                              const LogitEdits& edits);

// Takes the same edits back.
absl::Status DeviceRestoreLogits(device::Stream stream,
                                 const DeviceLogits& logits,
                                 const LogitEdits& edits);

// ---- The choice

struct DeviceSampleRow {
  double inverse_temperature;  // 0: greedy
  double log_min_p;            // -infinity: off
  double top_p;                // 1: off
  int32_t top_k;               // 0: off
  uint32_t choice;             // with seed and position: which noise (worker/sample/gumbel.h)
  uint32_t position;
  int32_t first_allowed;  // of `allowed`
  int32_t num_allowed;    // 0: every token
  uint64_t seed;
};

// Chooses a token of every row: of those within min_p, top_k and top_p of the softmax of
// logit * inverse_temperature, by the noise that the CPU takes; -1 when there is none. Logits are
// numbers or -infinity, which is never chosen.
absl::Status DeviceSample(device::Stream stream,
                          const DeviceLogits& logits,
                          const DeviceSampleRow* rows,  // [num_rows]
                          const int32_t* allowed,       // ids without duplicates, or null
                          int32_t* tokens);             // [num_rows]

// ---- Log-probabilities

constexpr int32_t kMaxTopLogprobs = 128;

struct DeviceLogprobRow {
  int32_t row;
  int32_t num_top;  // at most max_top
};

struct DeviceLogprobs {
  const DeviceLogprobRow* rows;  // [num_rows]
  const int32_t* tokens;         // [logits.num_rows]: log-probabilities of these, too; -infinity
                                 // of one outside the row
  float* logprobs;               // [num_rows], of the token
  int32_t* ranks;                // [num_rows], of the token: 1 + how many have a larger logit
  int32_t* top_ids;              // [num_rows, max_top], likeliest first; -1 after the last
  float* top_logprobs;           // [num_rows, max_top]
  int32_t num_rows;
  int32_t max_top;  // 0 to kMaxTopLogprobs
};

// Of rows of finite logits.
absl::Status DeviceComputeLogprobs(device::Stream stream,
                                   const DeviceLogits& logits,
                                   const DeviceLogprobs& args);

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_SAMPLING_LOGITS_DEVICE_H_
