#include "worker/models/device/device_sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "proto/support/status_macros.h"

namespace paceline::worker {
namespace {

namespace device = kernels::device;
using kernels::DeviceBestLogit;
using kernels::LogitEdit;
using kernels::LogitEditKind;

// Of a row: log-probability and rank of its token, and its likeliest.
constexpr int64_t kLogprobBytes =
    sizeof(float) + sizeof(int32_t) +
    kernels::kMaxTopLogprobs * static_cast<int64_t>(sizeof(int32_t) + sizeof(float));

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceSampler>> DeviceSampler::Create(int32_t max_rows,
                                                                     int64_t& workspace_bytes) {
  auto sampler = std::unique_ptr<DeviceSampler>(new DeviceSampler(workspace_bytes));
  const auto allocate =
      [&](int64_t row_bytes, DeviceBuffer& buffer, PinnedBuffer& found) -> absl::Status {
    ASSIGN_OR_RETURN(buffer, DeviceBuffer::Allocate(max_rows * row_bytes, workspace_bytes));
    ASSIGN_OR_RETURN(found, PinnedBuffer::Allocate(max_rows * row_bytes));
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(allocate(sizeof(DeviceBestLogit), sampler->best_, sampler->found_best_));
  RETURN_IF_ERROR(allocate(sizeof(int32_t), sampler->tokens_, sampler->found_tokens_));
  RETURN_IF_ERROR(allocate(kLogprobBytes, sampler->logprobs_, sampler->found_logprobs_));
  ASSIGN_OR_RETURN(sampler->staging_, Staging::Create(workspace_bytes));
  return sampler;
}

void DeviceSampler::Parameters::Clear() {
  edit_rows.clear();
  edits.clear();
  sample_rows.clear();
  allowed.clear();
  logprob_rows.clear();
  targets.clear();
}

int32_t DeviceSampler::Parameters::MaxTop() const {
  int32_t most = 0;
  for (const kernels::DeviceLogprobRow& row : logprob_rows) most = std::max(most, row.num_top);
  return most;
}

void DeviceSampler::Parameters::AddSample(const SampleJob& job, int32_t row, int32_t vocab_size) {
  const SamplingParams& params = job.request->sampling;
  const bool greedy = params.temperature < kGreedyTemperature;
  const absl::Span<const int32_t> ids = job.state->allowed();
  sample_rows.push_back(
      {.inverse_temperature = greedy ? 0.0 : 1.0 / static_cast<double>(params.temperature),
       .log_min_p = std::log(static_cast<double>(params.min_p)),
       .top_p = params.top_p,
       .top_k = params.top_k,
       .choice = static_cast<uint32_t>(job.choice_index),
       .position = static_cast<uint32_t>(job.position),
       .first_allowed = static_cast<int32_t>(allowed.size()),
       .num_allowed = static_cast<int32_t>(ids.size()),
       .seed = job.request->seed});
  allowed.insert(allowed.end(), ids.begin(), ids.end());
  AddEdits(job, row, vocab_size);
  if (params.logprobs >= 0) logprob_rows.push_back({row, params.logprobs});
}

// In the order of Sample's steps 3 to 6.
void DeviceSampler::Parameters::AddEdits(const SampleJob& job, int32_t row, int32_t vocab_size) {
  const SamplingParams& params = job.request->sampling;
  const size_t first = edits.size();
  const auto add = [&](int32_t id, LogitEditKind kind, float value) {
    if (id >= 0 && id < vocab_size) edits.push_back({id, kind, value});
  };
  for (const auto& [id, bias] : params.logit_bias) add(id, LogitEditKind::kBias, bias);
  if (job.position < params.min_tokens) {
    for (const int32_t id : params.stop_token_ids) add(id, LogitEditKind::kMask, 0);
    if (!params.ignore_eos) {
      for (const int32_t id : job.eos_ids) add(id, LogitEditKind::kMask, 0);
    }
  }
  for (const SamplerState::SeenToken& token : job.state->seen()) {
    add(token.id, LogitEditKind::kSeen, static_cast<float>(token.output_count));
  }
  if (edits.size() == first) return;
  std::stable_sort(edits.begin() + static_cast<ptrdiff_t>(first),
                   edits.end(),
                   [](const LogitEdit& a, const LogitEdit& b) { return a.id < b.id; });
  edit_rows.push_back({.row = row,
                       .first = static_cast<int32_t>(first),
                       .count = static_cast<int32_t>(edits.size() - first),
                       .repetition_penalty = params.repetition_penalty,
                       .frequency_penalty = params.frequency_penalty,
                       .presence_penalty = params.presence_penalty});
}

absl::Status DeviceSampler::Run(device::Stream stream,
                                const kernels::DeviceLogits& logits,
                                absl::Span<const SampleJob> jobs) {
  parameters_.Clear();
  for (int32_t row = 0; row < logits.num_rows; ++row) {
    const SampleJob& job = jobs[row];
    if (job.prompt_target < 0) {
      parameters_.AddSample(job, row, logits.vocab_size);
    } else {
      parameters_.targets.push_back(job.prompt_target);
      parameters_.logprob_rows.push_back({row, job.request->sampling.prompt_logprobs});
    }
  }
  RETURN_IF_ERROR(Upload(stream));
  return Enqueue(stream, logits);
}

absl::Status DeviceSampler::Upload(device::Stream stream) {
  staging_->Clear();
  staging_->Add(parameters_.edit_rows, places_.edit_rows);
  staging_->Add(parameters_.edits, places_.edits);
  staging_->Add(parameters_.sample_rows, places_.sample_rows);
  staging_->Add(parameters_.allowed, places_.allowed);
  staging_->Add(parameters_.logprob_rows, places_.logprob_rows);
  staging_->Add(parameters_.targets, places_.targets);
  RETURN_IF_ERROR(staging_->Copy(stream));
  const auto bytes = static_cast<int64_t>(parameters_.edits.size() * sizeof(float));
  if (bytes <= before_.bytes()) return absl::OkStatus();
  RETURN_IF_ERROR(device::Synchronize(stream));  // what reads the old one
  before_ = {};
  ASSIGN_OR_RETURN(before_, DeviceBuffer::Allocate(2 * bytes, workspace_bytes_));
  return absl::OkStatus();
}

absl::Status DeviceSampler::Enqueue(device::Stream stream, const kernels::DeviceLogits& logits) {
  const auto num_samples = static_cast<int32_t>(parameters_.sample_rows.size());
  auto* const tokens = tokens_.as<int32_t>();
  auto* const best = best_.as<DeviceBestLogit>();
  RETURN_IF_ERROR(kernels::DeviceArgMax(stream, logits, best));
  const kernels::LogitEdits edits = {
      .rows = places_.edit_rows,
      .edits = places_.edits,
      .before = before_.as<float>(),
      .num_rows = static_cast<int32_t>(parameters_.edit_rows.size())};
  if (edits.num_rows > 0) RETURN_IF_ERROR(kernels::DeviceEditLogits(stream, logits, edits));
  if (num_samples > 0) {
    kernels::DeviceLogits sampled = logits;
    sampled.num_rows = num_samples;
    RETURN_IF_ERROR(
        kernels::DeviceSample(stream, sampled, places_.sample_rows, places_.allowed, tokens));
  }
  RETURN_IF_ERROR(device::Copy(stream,
                               tokens + num_samples,
                               places_.targets,
                               static_cast<int64_t>(parameters_.targets.size() * sizeof(int32_t))));
  const auto num_logprobs = static_cast<int32_t>(parameters_.logprob_rows.size());
  if (num_logprobs > 0) {
    if (edits.num_rows > 0) RETURN_IF_ERROR(kernels::DeviceRestoreLogits(stream, logits, edits));
    const int32_t max_top = parameters_.MaxTop();
    auto* const words = logprobs_.as<int32_t>();
    int32_t* const top_ids = words + 2 * num_logprobs;
    RETURN_IF_ERROR(kernels::DeviceComputeLogprobs(
        stream,
        logits,
        {.rows = places_.logprob_rows,
         .tokens = tokens,
         .logprobs = reinterpret_cast<float*>(words),
         .ranks = words + num_logprobs,
         .top_ids = top_ids,
         .top_logprobs = reinterpret_cast<float*>(top_ids + int64_t{num_logprobs} * max_top),
         .num_rows = num_logprobs,
         .max_top = max_top}));
    RETURN_IF_ERROR(device::Copy(stream,
                                 found_logprobs_.as<int32_t>(),
                                 words,
                                 int64_t{num_logprobs} * (2 + 2 * max_top) * sizeof(int32_t)));
  }
  RETURN_IF_ERROR(device::Copy(stream,
                               found_best_.as<DeviceBestLogit>(),
                               best,
                               logits.num_rows * int64_t{sizeof(DeviceBestLogit)}));
  return device::Copy(
      stream, found_tokens_.as<int32_t>(), tokens, logits.num_rows * int64_t{sizeof(int32_t)});
}

void DeviceSampler::Take(absl::Span<const SampleJob> jobs, absl::Span<SampleResult> results) const {
  const auto num_logprobs = static_cast<int64_t>(parameters_.logprob_rows.size());
  const int32_t max_top = parameters_.MaxTop();
  const auto* const words = found_logprobs_.as<const int32_t>();
  const auto* const floats = found_logprobs_.as<const float>();
  for (size_t row = 0; row < jobs.size(); ++row) {
    SampleResult& result = results[row];
    result = {};
    result.numeric_error = found_best_.as<const DeviceBestLogit>()[row].all_finite == 0;
    if (result.numeric_error || jobs[row].prompt_target >= 0) continue;
    result.token_id = found_tokens_.as<const int32_t>()[row];
    result.no_candidate = result.token_id < 0;
  }
  for (int64_t i = 0; i < num_logprobs; ++i) {
    const kernels::DeviceLogprobRow& row = parameters_.logprob_rows[i];
    SampleResult& result = results[row.row];
    if (result.numeric_error || result.no_candidate) continue;
    result.has_logprobs = jobs[row.row].prompt_target < 0;
    result.logprobs = {.logprob = floats[i], .rank = words[num_logprobs + i]};
    const int64_t ids = 2 * num_logprobs + i * max_top;
    for (int32_t j = 0; j < row.num_top && words[ids + j] >= 0; ++j) {
      result.logprobs.top.emplace_back(words[ids + j], floats[ids + num_logprobs * max_top + j]);
    }
  }
}

}  // namespace paceline::worker
