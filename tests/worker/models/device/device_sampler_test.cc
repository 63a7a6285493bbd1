// The device's sampler against the CPU's, which is another program: the same answers to the same
// rows.
#include "worker/models/device/device_sampler.h"

#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "worker/device/device_memory.h"

namespace paceline::worker {
namespace {

constexpr int32_t kVocab = 1003;
constexpr int32_t kMaxRows = 24;
const std::vector<int32_t> kEos = {2, 7};

// Questions of one step, with what they point to.
class Step {
 public:
  explicit Step(uint64_t seed) : random_(seed) {}

  Request& Add() {
    Request& request = *requests_.emplace_back(std::make_unique<Request>());
    request.seed = random_();
    std::vector<float>& row = rows_.emplace_back(kVocab);
    std::normal_distribution<float> normal(0, 3);
    for (float& logit : row) logit = std::round(8 * normal(random_)) / 8;  // with ties
    return request;
  }
  std::vector<float>& row() { return rows_.back(); }

  // The last request samples after these tokens, or scores one.
  void Sample(int32_t choice, std::vector<int32_t> prompt, std::vector<int32_t> output) {
    const Request& request = *requests_.back();
    states_.push_back(
        std::make_unique<SamplerState>(SamplerState::Create(request, choice, prompt, output)));
    jobs_.push_back({.request = &request,
                     .choice_index = choice,
                     .position = static_cast<int32_t>(output.size()),
                     .state = states_.back().get(),
                     .eos_ids = kEos});
  }
  void Score(int32_t token) {
    jobs_.push_back({.request = requests_.back().get(), .prompt_target = token});
  }

  std::vector<SampleResult> OnCpu() const {
    std::vector<SampleResult> results;
    for (size_t i = 0; i < jobs_.size(); ++i) {
      std::vector<float> row = rows_[i];
      results.push_back(RunJob(absl::MakeSpan(row), jobs_[i]));
    }
    return results;
  }

  std::vector<SampleResult> OnDevice(DeviceSampler& sampler) const {
    int64_t bytes = 0;
    const int64_t size = static_cast<int64_t>(rows_.size()) * kVocab;
    const DeviceBuffer logits = DeviceBuffer::Allocate(size * 4, bytes).value();
    for (size_t i = 0; i < rows_.size(); ++i) {
      std::copy(rows_[i].begin(), rows_[i].end(), logits.as<float>() + i * kVocab);
    }
    const kernels::DeviceLogits rows = {
        logits.as<float>(), kVocab, static_cast<int32_t>(rows_.size()), kVocab};
    EXPECT_EQ(sampler.Run(nullptr, rows, jobs_), absl::OkStatus());
    EXPECT_EQ(kernels::device::Synchronize(nullptr), absl::OkStatus());
    std::vector<SampleResult> results(jobs_.size());
    results[0].token_id = 77;  // of an earlier step
    results[0].logprobs.top = {{1, 1.0F}};
    sampler.Take(jobs_, absl::MakeSpan(results));
    return results;
  }

 private:
  std::mt19937_64 random_;
  std::vector<std::unique_ptr<Request>> requests_;
  std::vector<std::vector<float>> rows_;
  std::vector<std::unique_ptr<SamplerState>> states_;
  std::vector<SampleJob> jobs_;
};

std::unique_ptr<DeviceSampler> MakeSampler() {
  static int64_t bytes = 0;
  return DeviceSampler::Create(kMaxRows, bytes).value();
}

void ExpectSame(const SampleResult& device, const SampleResult& cpu, size_t row) {
  EXPECT_EQ(device.token_id, cpu.token_id) << row;
  EXPECT_EQ(device.numeric_error, cpu.numeric_error) << row;
  EXPECT_EQ(device.no_candidate, cpu.no_candidate) << row;
  EXPECT_EQ(device.has_logprobs, cpu.has_logprobs) << row;
  EXPECT_EQ(device.logprobs.rank, cpu.logprobs.rank) << row;
  EXPECT_NEAR(device.logprobs.logprob, cpu.logprobs.logprob, 1e-5) << row;
  ASSERT_EQ(device.logprobs.top.size(), cpu.logprobs.top.size()) << row;
  for (size_t i = 0; i < cpu.logprobs.top.size(); ++i) {
    EXPECT_EQ(device.logprobs.top[i].first, cpu.logprobs.top[i].first) << row << " " << i;
    EXPECT_NEAR(device.logprobs.top[i].second, cpu.logprobs.top[i].second, 1e-5) << row;
  }
}

void ExpectAsTheCpu(const Step& step, DeviceSampler& sampler) {
  const std::vector<SampleResult> cpu = step.OnCpu();
  const std::vector<SampleResult> device = step.OnDevice(sampler);
  ASSERT_EQ(device.size(), cpu.size());
  for (size_t i = 0; i < cpu.size(); ++i) ExpectSame(device[i], cpu[i], i);
}

// Every parameter on in some requests and off in others, in any combination.
TEST(DeviceSamplerTest, AnswersAsTheCpu) {
  const std::unique_ptr<DeviceSampler> sampler = MakeSampler();
  std::mt19937 random(3);
  const auto maybe = [&] { return random() % 3 == 0; };
  const auto id = [&] { return static_cast<int32_t>(random() % kVocab); };
  int tops = 0;
  for (int round = 0; round < 8; ++round) {
    Step step(round);
    const auto samples = static_cast<int>(1 + random() % 12);
    for (int i = 0; i < samples; ++i) {
      Request& request = step.Add();
      SamplingParams& params = request.sampling;
      params.temperature = maybe() ? 0.0F : 0.7F;
      if (maybe()) params.top_k = static_cast<int32_t>(1 + random() % 50);
      if (maybe()) params.top_p = 0.9F;
      if (maybe()) params.min_p = 0.02F;
      if (maybe()) params.repetition_penalty = 1.3F;
      if (maybe()) params.frequency_penalty = 0.4F;
      if (maybe()) params.presence_penalty = -0.7F;
      if (maybe()) params.logprobs = static_cast<int32_t>(random() % 21);
      if (maybe()) params.min_tokens = 5;
      params.ignore_eos = maybe();
      if (maybe()) params.stop_token_ids = {id(), id(), kVocab + 5, -1};
      for (int b = maybe() ? 30 : 0; b > 0; --b) params.logit_bias.emplace_back(id(), 5.0F);
      if (!params.logit_bias.empty()) params.logit_bias.push_back(params.logit_bias.front());
      for (int a = maybe() ? 40 : 0; a > 0; --a) params.allowed_token_ids.push_back(id());
      std::vector<int32_t> prompt(random() % 50);
      std::vector<int32_t> output(random() % 10);
      for (int32_t& token : prompt) token = id();
      for (int32_t& token : output) token = id();
      tops += params.logprobs > 0 ? 1 : 0;
      step.Sample(static_cast<int32_t>(random() % 3), prompt, output);
    }
    for (int i = static_cast<int>(random() % 5); i > 0; --i) {
      step.Add().sampling.prompt_logprobs = static_cast<int32_t>(random() % 4);
      step.Score(id());
    }
    ExpectAsTheCpu(step, *sampler);
  }
  EXPECT_GT(tops, 5);
}

TEST(DeviceSamplerTest, RowsThatAreNotSoundAndRequestsThatLeaveNothing) {
  const std::unique_ptr<DeviceSampler> sampler = MakeSampler();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  Step step(1);
  for (const float bad : {std::nanf(""), kInf, -kInf}) {
    Request& request = step.Add();
    request.sampling.logprobs = 3;
    request.sampling.top_p = 0.9F;
    request.sampling.top_k = 4;
    step.row()[500] = bad;
    step.Sample(0, {}, {});
  }
  for (const float bad : {std::nanf(""), kInf, -kInf}) {
    step.Add().sampling.logprobs = 2;
    std::fill(step.row().begin(), step.row().end(), bad);
    step.Sample(0, {}, {});
  }
  Request& nothing = step.Add();
  nothing.sampling.allowed_token_ids = {kVocab, kVocab + 1};
  nothing.sampling.logprobs = 2;
  step.Sample(0, {}, {});
  step.Add().sampling.logprobs = 1;  // a good one beside them
  step.Sample(0, {}, {});
  step.Add().sampling.prompt_logprobs = 2;
  step.row()[9] = std::nanf("");
  step.Score(4);
  const std::vector<SampleResult> cpu = step.OnCpu();
  EXPECT_TRUE(cpu[0].numeric_error && cpu[5].numeric_error && cpu[6].no_candidate);
  ExpectAsTheCpu(step, *sampler);
}

TEST(DeviceSamplerTest, MoreEditsThanBefore) {
  const std::unique_ptr<DeviceSampler> sampler = MakeSampler();
  for (int32_t count : {1, 100, 5000}) {
    Step step(count);
    for (int i = 0; i < 3; ++i) {
      Request& request = step.Add();
      request.sampling.repetition_penalty = 1.1F;
      request.sampling.logprobs = 1;
      std::vector<int32_t> prompt(count);
      for (int32_t p = 0; p < count; ++p) prompt[p] = (p * 7 + i) % (kVocab + 3);
      step.Sample(0, prompt, {});
    }
    ExpectAsTheCpu(step, *sampler);
  }
}

}  // namespace
}  // namespace paceline::worker
