// What is asked of one row of logits: the next token of a choice, or the score of a prompt's own
// token. Plain values; what they point to outlives the step.
#ifndef PACELINE_WORKER_SAMPLE_SAMPLE_JOB_H_
#define PACELINE_WORKER_SAMPLE_SAMPLE_JOB_H_

#include <cstdint>

#include "absl/types/span.h"
#include "worker/core/request.h"
#include "worker/sample/sampler.h"

namespace paceline::worker {

struct SampleJob {
  const Request* request = nullptr;
  int32_t prompt_target = -1;  // >= 0: score this token, with sampling.prompt_logprobs; else sample
  // Of a sample, Sample's arguments.
  int32_t choice_index = 0;
  int32_t position = 0;
  const SamplerState* state = nullptr;
  absl::Span<const int32_t> eos_ids;
};

// A score has only log-probabilities; a row that is not sound gives one of rank 0.
inline SampleResult RunJob(absl::Span<float> logits, const SampleJob& job) {
  if (job.prompt_target < 0) {
    return Sample(logits, *job.request, job.choice_index, job.position, job.state, job.eos_ids);
  }
  SampleResult score;
  score.logprobs = PromptLogprobs(logits, job.prompt_target, job.request->sampling.prompt_logprobs);
  score.numeric_error = score.logprobs.rank == 0;
  return score;
}

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_SAMPLE_SAMPLE_JOB_H_
