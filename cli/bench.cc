// `paceline bench MODEL`: the engine alone, no router, no text. Random prompt ids, end-of-sequence
// ignored, prefix cache off.
#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/commands.h"
#include "cli/loaded_model.h"
#include "cli/progress.h"
#include "nlohmann/json.hpp"
#include "proto/support/clock.h"
#include "proto/support/log.h"
#include "proto/support/status_macros.h"

namespace paceline::cli {
namespace {

// Waits for a batch of requests; notes when the last of them had its first token.
class BatchSink final : public worker::FrameSink {
 public:
  explicit BatchSink(int32_t batch) : batch_(batch) {}

  void OnFrame(worker::Frame frame) override {
    const int64_t now = SteadyClock::Get().NowNs();
    const std::lock_guard lock(mutex_);
    for (const worker::SequenceResult& result : frame.results) {
      if (result.first_index == 0 && !result.token_ids.empty() && ++started_ == batch_) {
        prefilled_ns_ = now;
      }
      tokens_ += static_cast<int64_t>(result.token_ids.size());
      if (result.finish_reason == worker::FinishReason::kNone) continue;
      if (result.finish_reason != worker::FinishReason::kLength) error_ = result.error;
      if (++finished_ == batch_) finished_ns_ = now;
    }
    if (finished_ == batch_) done_.notify_all();
  }

  struct Times {
    absl::Status error;
    int64_t prefilled_ns = 0;
    int64_t finished_ns = 0;
    int64_t tokens = 0;
  };
  Times Wait() {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return finished_ == batch_; });
    return {error_, prefilled_ns_, finished_ns_, tokens_};
  }

 private:
  const int32_t batch_;
  std::mutex mutex_;  // guards everything below
  std::condition_variable done_;
  int32_t started_ = 0;
  int32_t finished_ = 0;
  int64_t tokens_ = 0;
  int64_t prefilled_ns_ = 0;
  int64_t finished_ns_ = 0;
  absl::Status error_;
};

struct Rate {
  double prefill = 0;  // tokens per second
  double decode = 0;
};

absl::StatusOr<Rate> Measure(LoadedModel& model, int32_t batch, int32_t prompt, int32_t output) {
  auto sink = std::make_shared<BatchSink>(batch);
  const uint64_t session = model.engine().Attach(sink);
  std::mt19937 random(batch * 7919 + prompt);
  std::uniform_int_distribution<int32_t> ids(0, model.config().vocab_size - 1);
  std::vector<std::shared_ptr<const worker::Request>> requests;
  for (int32_t i = 0; i < batch; ++i) {
    auto request = std::make_shared<worker::Request>();
    request->id = absl::StrCat("bench-", i);
    request->session = session;
    for (int32_t k = 0; k < prompt; ++k) request->token_ids.push_back(ids(random));
    request->num_prompt_tokens = prompt;
    request->sampling.temperature = 0;
    request->sampling.max_tokens = output;
    request->sampling.ignore_eos = true;
    requests.push_back(std::move(request));
  }
  const int64_t start = SteadyClock::Get().NowNs();
  for (auto& request : requests) model.engine().Submit(std::move(request));
  const BatchSink::Times times = sink->Wait();
  model.engine().Detach(session);
  RETURN_IF_ERROR(times.error);
  Rate rate;
  rate.prefill = 1e9 * batch * prompt / static_cast<double>(times.prefilled_ns - start);
  if (output > 1) {
    rate.decode =
        1e9 * batch * (output - 1) / static_cast<double>(times.finished_ns - times.prefilled_ns);
  }
  return rate;
}

absl::StatusOr<nlohmann::ordered_json> RunAll(const BenchOptions& options, LoadedModel& model) {
  nlohmann::ordered_json results = nlohmann::ordered_json::array();
  ProgressBar bar("bench");
  const int64_t total = static_cast<int64_t>(options.batches.size()) * options.repetitions;
  int64_t done = 0;
  for (const int32_t batch : options.batches) {
    Rate best;
    for (int32_t i = 0; i < options.repetitions; ++i) {
      bar.Update(done++, total, absl::StrCat("batch ", batch));
      ASSIGN_OR_RETURN(const Rate rate,
                       Measure(model, batch, options.prompt_tokens, options.output_tokens));
      best.prefill = std::max(best.prefill, rate.prefill);
      best.decode = std::max(best.decode, rate.decode);
    }
    results.push_back({{"batch", batch},
                       {"prompt_tokens", options.prompt_tokens},
                       {"output_tokens", options.output_tokens},
                       {"prefill_tokens_per_s", best.prefill},
                       {"decode_tokens_per_s", best.decode}});
  }
  return results;
}

}  // namespace

int RunBench(const BenchOptions& options, const LogOptions& log) {
  InitLog("bench", log.level, log.format == "json" ? LogFormat::kJson : LogFormat::kText);
  if (absl::StrContains(options.engine.model, "://")) {
    return Fail(absl::InvalidArgumentError(
        "bench URL: the online form is not supported yet; give a model file"));
  }
  EngineOptions engine = options.engine;
  engine.enable_prefix_caching = false;
  int32_t largest = 0;
  for (const int32_t batch : options.batches) {
    if (batch < 1 || batch > 65536) {
      return Fail(absl::InvalidArgumentError("--batch: sizes must be within 1 .. 65536"));
    }
    largest = std::max(largest, batch);
  }
  engine.max_num_seqs = std::max(largest, 1);
  engine.max_num_batched_tokens = std::max(engine.max_num_batched_tokens, largest);
  absl::StatusOr<std::unique_ptr<LoadedModel>> model = LoadedModel::Load(engine, {});
  if (!model.ok()) return Fail(model.status());
  spdlog::info("{}", (*model)->description());
  absl::StatusOr<nlohmann::ordered_json> results = RunAll(options, **model);
  if (!results.ok()) return Fail(results.status());
  if (options.json) {
    const nlohmann::ordered_json out = {{"model", (*model)->identity().hello.model_id()},
                                        {"threads", (*model)->num_threads()},
                                        {"results", *results}};
    absl::PrintF("%s\n", out.dump());
    return 0;
  }
  absl::PrintF(
      "%8s %8s %8s %16s %16s\n", "batch", "prompt", "output", "prefill tok/s", "decode tok/s");
  for (const auto& row : *results) {
    absl::PrintF("%8d %8d %8d %16.1f %16.1f\n",
                 row["batch"].get<int>(),
                 row["prompt_tokens"].get<int>(),
                 row["output_tokens"].get<int>(),
                 row["prefill_tokens_per_s"].get<double>(),
                 row["decode_tokens_per_s"].get<double>());
  }
  return 0;
}

}  // namespace paceline::cli
