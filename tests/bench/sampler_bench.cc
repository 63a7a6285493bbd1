// Time to sample one row: sampler_bench [--benchmark_filter=…]. Rows have the shape of a language
// model's: most logits far below a handful of likely ones ("peaked", as inside a word; "open", as
// at the start of a sentence), and "flat", the worst case.
#include <algorithm>
#include <random>
#include <vector>

#include "absl/types/span.h"
#include "benchmark/benchmark.h"
#include "worker/sample/sampler.h"

namespace paceline::worker {
namespace {

constexpr int kVocabSize = 49152;

// Logits fall with the logarithm of the rank, as word frequencies do; `slope` nats per e-fold.
std::vector<float> Row(float slope, float noise) {
  std::mt19937 rng(7);
  std::normal_distribution<float> normal(0, noise);
  std::vector<float> row(kVocabSize);
  for (int i = 0; i < kVocabSize; ++i) {
    row[i] = 20 - slope * std::log1p(static_cast<float>(i)) + normal(rng);
  }
  std::shuffle(row.begin(), row.end(), rng);
  return row;
}

void SampleRow(benchmark::State& state, SamplingParams params, float slope) {
  const std::vector<float> row = Row(slope, 0.5F);
  std::vector<float> logits = row;
  Request request;
  request.sampling = std::move(params);
  request.seed = 1;
  std::vector<int32_t> prompt(512);
  for (int i = 0; i < 512; ++i) prompt[i] = i * 7;
  const SamplerState sampler = SamplerState::Create(request, 0, prompt, {});
  const bool edits = request.sampling.repetition_penalty != 1;
  int32_t position = 0;
  for (auto _ : state) {
    if (edits) std::copy(row.begin(), row.end(), logits.begin());
    benchmark::DoNotOptimize(Sample(absl::MakeSpan(logits), request, 0, position++, &sampler, {}));
  }
}

SamplingParams Params(float temperature, int32_t top_k, float top_p, float min_p) {
  SamplingParams params;
  params.temperature = temperature;
  params.top_k = top_k;
  params.top_p = top_p;
  params.min_p = min_p;
  return params;
}

SamplingParams WithLogprobs(SamplingParams params) {
  params.logprobs = 5;
  return params;
}

SamplingParams WithPenalty(SamplingParams params) {
  params.repetition_penalty = 1.1F;
  return params;
}

constexpr float kPeaked = 2.5F;
constexpr float kOpen = 1.3F;
constexpr float kFlat = 0.1F;

BENCHMARK_CAPTURE(SampleRow, greedy, Params(0, 0, 1, 0), kPeaked);
BENCHMARK_CAPTURE(SampleRow, greedy_logprobs, WithLogprobs(Params(0, 0, 1, 0)), kPeaked);
BENCHMARK_CAPTURE(SampleRow, greedy_penalty_and_copy, WithPenalty(Params(0, 0, 1, 0)), kPeaked);
BENCHMARK_CAPTURE(SampleRow, temperature_peaked, Params(1, 0, 1, 0), kPeaked);
BENCHMARK_CAPTURE(SampleRow, temperature_open, Params(1, 0, 1, 0), kOpen);
BENCHMARK_CAPTURE(SampleRow, temperature_flat, Params(1, 0, 1, 0), kFlat);
BENCHMARK_CAPTURE(SampleRow, top_p_peaked, Params(0.8F, 0, 0.95F, 0), kPeaked);
BENCHMARK_CAPTURE(SampleRow, top_p_open, Params(0.8F, 0, 0.95F, 0), kOpen);
BENCHMARK_CAPTURE(SampleRow, top_p_flat, Params(0.8F, 0, 0.95F, 0), kFlat);
BENCHMARK_CAPTURE(SampleRow, top_k_50, Params(1, 50, 1, 0), kOpen);
BENCHMARK_CAPTURE(SampleRow, top_k_50_top_p, Params(1, 50, 0.9F, 0), kOpen);
BENCHMARK_CAPTURE(SampleRow, top_k_1000_top_p, Params(1, 1000, 0.9F, 0), kOpen);
BENCHMARK_CAPTURE(SampleRow, min_p, Params(1, 0, 1, 0.05F), kOpen);

}  // namespace
}  // namespace paceline::worker

BENCHMARK_MAIN();
