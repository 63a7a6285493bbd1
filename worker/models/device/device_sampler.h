// What is asked of rows of logits, answered where they are, so that a few bytes a row come to the
// host. Chooses the tokens that the CPU's sampler (worker/sample/sampler.h) does. Owned by the
// model; the thread whose device it is.
#ifndef PACELINE_WORKER_MODELS_DEVICE_DEVICE_SAMPLER_H_
#define PACELINE_WORKER_MODELS_DEVICE_DEVICE_SAMPLER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/sampling/logits_device.h"
#include "worker/device/device_memory.h"
#include "worker/models/device/staging.h"
#include "worker/sample/sample_job.h"

namespace paceline::worker {

class DeviceSampler {
 public:
  // For at most `max_rows` at a time. `workspace_bytes` has the device's memory added; it outlives
  // the sampler.
  static absl::StatusOr<std::unique_ptr<DeviceSampler>> Create(int32_t max_rows,
                                                               int64_t& workspace_bytes);

  // Enqueues the answers to jobs[i] about row i, whose logits are changed; those that sample come
  // first. REQUIRES: as many rows as jobs.
  absl::Status Run(kernels::device::Stream stream,
                   const kernels::DeviceLogits& logits,
                   absl::Span<const SampleJob> jobs);
  // results[i] is the answer to jobs[i] of the last Run, for which the stream was waited.
  void Take(absl::Span<const SampleJob> jobs, absl::Span<SampleResult> results) const;
  // On the device: the tokens of the last Run's rows that sample.
  const int32_t* tokens() const { return tokens_.as<const int32_t>(); }

 private:
  // Of the host, as the kernels read them.
  struct Parameters {
    std::vector<kernels::LogitEditRow> edit_rows;
    std::vector<kernels::LogitEdit> edits;
    std::vector<kernels::DeviceSampleRow> sample_rows;
    std::vector<int32_t> allowed;
    std::vector<kernels::DeviceLogprobRow> logprob_rows;
    std::vector<int32_t> targets;  // of jobs that score

    void Clear();
    void AddSample(const SampleJob& job, int32_t row, int32_t vocab_size);
    void AddEdits(const SampleJob& job, int32_t row, int32_t vocab_size);
    int32_t MaxTop() const;
  };
  // The same on the device.
  struct Places {
    const kernels::LogitEditRow* edit_rows = nullptr;
    const kernels::LogitEdit* edits = nullptr;
    const kernels::DeviceSampleRow* sample_rows = nullptr;
    const int32_t* allowed = nullptr;
    const kernels::DeviceLogprobRow* logprob_rows = nullptr;
    const int32_t* targets = nullptr;
  };

  explicit DeviceSampler(int64_t& workspace_bytes) : workspace_bytes_(workspace_bytes) {}

  absl::Status Upload(kernels::device::Stream stream);
  absl::Status Enqueue(kernels::device::Stream stream, const kernels::DeviceLogits& logits);

  int64_t& workspace_bytes_;
  Parameters parameters_;
  Places places_;
  std::unique_ptr<Staging> staging_;
  DeviceBuffer before_;  // f32, one an edit
  // One a row, on the device and where the host reads them.
  DeviceBuffer best_;
  DeviceBuffer tokens_;
  // Of the rows that ask for them: [n] f32 of tokens, [n] ranks, [n, max_top] ids, as many f32.
  DeviceBuffer logprobs_;
  PinnedBuffer found_best_;
  PinnedBuffer found_tokens_;
  PinnedBuffer found_logprobs_;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_DEVICE_DEVICE_SAMPLER_H_
