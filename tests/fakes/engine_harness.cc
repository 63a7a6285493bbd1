#include "tests/fakes/engine_harness.h"

#include <cstdlib>
#include <cstring>

#include "model/config/model_config.h"
#include "proto/support/clock.h"
#include "proto/support/log.h"
#include "tests/fakes/early_model.h"
#include "worker/runner/model_runner.h"

namespace paceline::worker {
namespace {

bool SameBits(float a, float b) { return std::memcmp(&a, &b, sizeof(a)) == 0; }

bool SameLogprobs(const std::vector<TokenLogprobs>& a, const std::vector<TokenLogprobs>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!SameBits(a[i].logprob, b[i].logprob) || a[i].rank != b[i].rank ||
        a[i].top.size() != b[i].top.size()) {
      return false;
    }
    for (size_t k = 0; k < a[i].top.size(); ++k) {
      if (a[i].top[k].first != b[i].top[k].first ||
          !SameBits(a[i].top[k].second, b[i].top[k].second)) {
        return false;
      }
    }
  }
  return true;
}

}  // namespace

bool SameAnswer(const Answer& a, const Answer& b) {
  return a.token_ids == b.token_ids && a.finish_reason == b.finish_reason &&
         SameLogprobs(a.logprobs, b.logprobs);
}

class EngineHarness::Sink final : public FrameSink {
 public:
  void OnFrame(Frame frame) override {
    const std::lock_guard lock(mutex);
    ++num_frames;
    load = frame.load;
    for (SequenceResult& result : frame.results) {
      Answer& answer = answers[{result.request_id, result.choice_index}];
      answer.after_end = answer.after_end || answer.finish_reason != FinishReason::kNone;
      answer.gap = answer.gap || (!result.token_ids.empty() && answer.next_index != 0 &&
                                  result.first_index != answer.next_index);
      answer.next_index = result.first_index + static_cast<int32_t>(result.token_ids.size());
      answer.token_ids.insert(
          answer.token_ids.end(), result.token_ids.begin(), result.token_ids.end());
      for (TokenLogprobs& logprobs : result.logprobs)
        answer.logprobs.push_back(std::move(logprobs));
      if (!result.prompt_logprobs.empty()) {
        answer.prompt_logprobs = std::move(result.prompt_logprobs);
      }
      answer.cached_tokens = result.cached_tokens;
      answer.finish_reason = result.finish_reason;
      answer.error = result.error;
      answer.has_stop_token = result.has_stop_token;
      answer.stop_token_id = result.stop_token_id;
    }
    changed.notify_all();
  }

  std::mutex mutex;  // guards everything below
  std::condition_variable changed;
  std::map<std::pair<std::string, int32_t>, Answer> answers;
  EngineLoad load;
  int64_t num_frames = 0;
};

ModelLoader EngineHarness::DefaultLoader() {
  return std::getenv("PACELINE_TEST_EARLY") == nullptr ? &LoadModel : &LoadEarlyModel;
}

EngineHarness::EngineHarness(const Options& options)
    : model_bytes_(model::TinyModelBytes(options.model)),
      metrics_({.model_name = "tiny",
                .max_model_len = 512,
                .block_size = 32,
                .num_blocks = 1,
                .num_ranks = options.tensor_size * options.num_stages,
                .has_gpu = options.has_gpu}),
      sink_(std::make_shared<Sink>()) {
  auto file = model::GgufFile::FromBytes(model_bytes_);
  PACELINE_CHECK(file.ok(), "tiny model does not open");
  file_ = *std::move(file);
  auto config = model::ModelConfigFromGguf(*file_);
  PACELINE_CHECK(config.ok(), "tiny model has no configuration");
  config_ = *config;
  const auto ranks = LocalRanks::Create(options.tensor_size,
                                        options.num_stages,
                                        HostPlace{},
                                        options.max_num_batched_tokens * config_.hidden_size * 4);
  PACELINE_CHECK(ranks.ok(), std::string(ranks.status().message()));
  for (int32_t rank = 1; rank < ranks->sizes.num_ranks(); ++rank) {
    ranks_.emplace_back([this, options, rank, ranks = *ranks] {
      const auto group = JoinLocalRanks(ranks, rank);
      PACELINE_CHECK(group.ok(), std::string(group.status().message()));
      ModelShard::Options shard_options = ShardOptions(options, group->get());
      shard_options.trace = nullptr;
      const absl::Status status = RunRank(*file_, config_, shard_options);
      PACELINE_CHECK(status.ok(), std::string(status.message()));
    });
  }
  auto group = JoinLocalRanks(*ranks, 0);
  PACELINE_CHECK(group.ok(), std::string(group.status().message()));
  group_ = *std::move(group);
  auto runner = ModelRunner::Create(
      *file_,
      config_,
      {.shard = ShardOptions(options, group_.get()), .eos_token_ids = {model::kTinyImEnd}});
  PACELINE_CHECK(runner.ok(), std::string(runner.status().message()));
  auto engine =
      Engine::Create({.scheduler = {.max_num_seqs = options.max_num_seqs,
                                    .max_num_batched_tokens = options.max_num_batched_tokens,
                                    .max_model_len = config_.max_context,
                                    .vocab_size = config_.vocab_size,
                                    .eos_token_ids = {model::kTinyImEnd},
                                    .prefix_caching = options.prefix_caching},
                      .model_digest = "tiny",
                      .beat_interval_ms = 20,
                      .trace = options.trace,
                      .spans = options.spans},
                     *std::move(runner),
                     metrics_,
                     SteadyClock::Get());
  PACELINE_CHECK(engine.ok(), std::string(engine.status().message()));
  engine_ = *std::move(engine);
  session_ = engine_->Attach(sink_);
}

EngineHarness::~EngineHarness() {
  engine_ = nullptr;
  for (std::thread& rank : ranks_) rank.join();
}

ModelShard::Options EngineHarness::ShardOptions(const Options& options, RankGroup* group) const {
  DevicePlace device = options.device;
  if (options.own_devices && group->all != nullptr) device.index = group->all->rank();
  return {
      .load = options.load,
      .device = std::move(device),
      .compute = options.compute,
      .kv_dtype = options.kv_dtype,
      .tensor_mode = options.tensor_mode,
      .num_threads = options.num_threads,
      .pin_threads = false,
      .max_batch_tokens = options.max_num_batched_tokens,
      .max_model_len = config_.max_context,
      .kv_cache_bytes = options.num_blocks * ModelShard::KvBytesPerBlock(config_, options.kv_dtype),
      .trace = options.trace,
      .group = group,
      .progress = nullptr};
}

Request EngineHarness::MakeRequest(std::string id,
                                   std::vector<int32_t> prompt,
                                   int32_t max_tokens) {
  Request request;
  request.id = std::move(id);
  request.num_prompt_tokens = static_cast<int32_t>(prompt.size());
  request.token_ids = std::move(prompt);
  request.sampling.max_tokens = max_tokens;
  request.sampling.temperature = 0;
  request.sampling.ignore_eos = true;
  request.sampling.logprobs = 3;
  return request;
}

std::vector<int32_t> EngineHarness::Prompt(int32_t length, int32_t seed) {
  std::vector<int32_t> ids(length);
  uint32_t state = 12345U + static_cast<uint32_t>(seed) * 7919U;
  for (int32_t& id : ids) {
    state = state * 1664525U + 1013904223U;
    id = 3 + static_cast<int32_t>((state >> 8) % 256);
  }
  return ids;
}

void EngineHarness::Submit(Request request) {
  request.session = session_;
  request.arrival_ns = SteadyClock::Get().NowNs();
  engine_->Submit(std::make_shared<const Request>(std::move(request)));
}

Answer EngineHarness::Wait(const std::string& id, int32_t choice) {
  std::unique_lock lock(sink_->mutex);
  sink_->changed.wait(lock, [&] {
    return sink_->answers[{id, choice}].finish_reason != FinishReason::kNone;
  });
  return sink_->answers[{id, choice}];
}

int32_t EngineHarness::WaitForTokens(const std::string& id, int32_t count, int32_t choice) {
  std::unique_lock lock(sink_->mutex);
  const auto& answer = sink_->answers[{id, choice}];
  sink_->changed.wait(lock, [&] {
    return static_cast<int32_t>(answer.token_ids.size()) >= count ||
           answer.finish_reason != FinishReason::kNone;
  });
  return static_cast<int32_t>(answer.token_ids.size());
}

Answer EngineHarness::Run(Request request) {
  const std::string id = request.id;
  const int32_t choice = request.first_choice_index;
  Submit(std::move(request));
  return Wait(id, choice);
}

void EngineHarness::WaitUntilIdle() {
  std::unique_lock lock(sink_->mutex);
  const int64_t seen = sink_->num_frames;
  sink_->changed.wait(lock, [&] {
    const EngineLoad& load = sink_->load;
    return sink_->num_frames > seen && load.running == 0 && load.waiting == 0 &&
           load.free_blocks == load.total_blocks;
  });
}

EngineLoad EngineHarness::last_load() {
  const std::lock_guard lock(sink_->mutex);
  return sink_->load;
}

int64_t EngineHarness::num_frames() {
  const std::lock_guard lock(sink_->mutex);
  return sink_->num_frames;
}

}  // namespace paceline::worker
