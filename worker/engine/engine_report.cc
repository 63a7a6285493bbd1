// What the engine tells those who watch it: metrics and the step trace. No decision is here.
#include <algorithm>
#include <vector>

#include "worker/engine/engine.h"

namespace paceline::worker {
namespace {

constexpr int64_t kSilentRankNs = 2'000'000'000;  // a rank beats twice a second

double Seconds(int64_t ns) { return static_cast<double>(ns) * 1e-9; }

int32_t NumDecodes(const Batch& batch) {
  int32_t count = 0;
  for (const BatchEntry& entry : batch.entries) {
    count += entry.num_tokens == 1 && !entry.samplers.empty() ? 1 : 0;
  }
  return count;
}

}  // namespace

void Engine::PublishStep(const Batch& batch, int64_t start_ns, int64_t ran_ns) {
  const int32_t decodes = NumDecodes(batch);
  metrics_.steps->Increment();
  metrics_.decode_tokens->Increment(decodes);
  metrics_.prefill_tokens->Increment(batch.num_tokens - decodes);
  (decodes == batch.num_tokens ? metrics_.decode_step_seconds : metrics_.prefill_step_seconds)
      ->Observe(Seconds(ran_ns - start_ns));
  metrics_.vllm_iteration_tokens->Observe(batch.num_tokens);
}

void Engine::DescribeStep(const Batch& batch, TraceSpan& step) const {
  const Scheduler::Load load = scheduler_.load();
  const int32_t decodes = NumDecodes(batch);
  step.AddArgs({{"step", static_cast<int64_t>(step_)},
                {"sequences", static_cast<int64_t>(batch.entries.size())},
                {"decode_tokens", decodes},
                {"prefill_tokens", batch.num_tokens - decodes},
                {"running", load.running},
                {"waiting", load.waiting}});
}

void Engine::PublishLoad() {
  const Scheduler::Load load = scheduler_.load();
  num_sequences_ = load.running + load.waiting + load.paused;
  metrics_.running->Set(load.running);
  metrics_.waiting->Set(load.waiting);
  metrics_.paused->Set(load.paused);
  metrics_.waiting_tokens->Set(static_cast<double>(load.waiting_tokens));
  metrics_.vllm_running->Set(load.running);
  metrics_.vllm_waiting->Set(load.waiting);

  const KvCache::Stats cache = cache_.stats();
  metrics_.kv_blocks_used->Set(cache.used);
  metrics_.kv_blocks_cached->Set(cache.evictable);
  metrics_.kv_blocks_free->Set(cache.free);
  metrics_.vllm_kv_usage->Set(static_cast<double>(cache.used) / std::max(1, cache.total));
  metrics_.vllm_prefix_queries->Increment(
      static_cast<double>(cache.queried_tokens - published_cache_.queried_tokens));
  metrics_.vllm_prefix_hits->Increment(
      static_cast<double>(cache.hit_tokens - published_cache_.hit_tokens));
  metrics_.prefix_evictions->Increment(
      static_cast<double>(cache.evictions - published_cache_.evictions));
  published_cache_ = cache;

  const Scheduler::Counters& counters = scheduler_.counters();
  metrics_.vllm_preemptions->Increment(
      static_cast<double>(counters.preemptions - published_.preemptions));
  metrics_.vllm_prompt_tokens->Increment(
      static_cast<double>(counters.prompt_tokens - published_.prompt_tokens));
  published_ = counters;
}

void Engine::PublishRanks() {
  runner_->ReadRanks(ranks_);
  const int64_t now_ns = clock_.NowNs();
  const size_t count = std::min(ranks_.size(), metrics_.ranks.size());
  published_ranks_.resize(count);
  rank_beat_ns_.resize(count, now_ns);
  for (size_t i = 0; i < count; ++i) {
    const RankWork& work = ranks_[i];
    RankWork& before = published_ranks_[i];
    const RankSeries& series = metrics_.ranks[i];
    series.steps->Increment(static_cast<double>(work.steps - before.steps));
    series.compute_seconds->Increment(Seconds(work.compute_ns - before.compute_ns));
    series.wait_seconds->Increment(Seconds(work.wait_ns - before.wait_ns));
    if (series.device_seconds != nullptr) {
      series.device_seconds->Increment(Seconds(work.device.timed_ns - before.device.timed_ns));
      series.device_exchange_seconds->Increment(
          Seconds(work.device.exchange_ns - before.device.exchange_ns));
    }
    // One whose pulse nobody watches lives as long as the engine does.
    if (work.beats != before.beats || work.beats == 0) rank_beat_ns_[i] = now_ns;
    series.up->Set(now_ns - rank_beat_ns_[i] < kSilentRankNs ? 1 : 0);
    before = work;
  }
}

void Engine::PublishFinished(const Finished& finished, int64_t now_ns) {
  const Sequence& sequence = *finished.sequence;
  switch (finished.reason) {
    case FinishReason::kStop:
      metrics_.vllm_success_stop->Increment();
      break;
    case FinishReason::kLength:
      metrics_.vllm_success_length->Increment();
      break;
    case FinishReason::kError:
      metrics_.vllm_success_error->Increment();
      return;
    default:
      metrics_.vllm_success_abort->Increment();
      return;
  }
  metrics_.vllm_e2e->Observe(Seconds(now_ns - sequence.arrival_ns));
  metrics_.vllm_queue->Observe(Seconds(sequence.first_scheduled_ns - sequence.arrival_ns));
  metrics_.vllm_prefill->Observe(Seconds(sequence.first_token_ns - sequence.first_scheduled_ns));
  metrics_.vllm_decode->Observe(Seconds(sequence.last_token_ns - sequence.first_token_ns));
  metrics_.vllm_inference->Observe(Seconds(sequence.last_token_ns - sequence.first_scheduled_ns));
  const int32_t tokens = sequence.num_output_tokens();
  if (tokens > 1) {
    metrics_.vllm_tpot->Observe(Seconds(sequence.last_token_ns - sequence.first_token_ns) /
                                (tokens - 1));
  }
  metrics_.vllm_request_prompt_tokens->Observe(sequence.num_prompt_tokens);
  metrics_.vllm_request_generation_tokens->Observe(tokens);
  metrics_.vllm_params_max_tokens->Observe(sequence.request->sampling.max_tokens);
  metrics_.vllm_params_n->Observe(sequence.request->n);
}

}  // namespace paceline::worker
