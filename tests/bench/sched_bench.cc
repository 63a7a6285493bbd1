// Scheduler cost per step (Next + Commit), without a model. One argument each: sequences that
// decode in every step; with WaitingN besides them sequences that wait.
//
//   sched_bench --benchmark_min_time=2
#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "proto/support/log.h"
#include "worker/cache/kv_cache.h"
#include "worker/sched/scheduler.h"

namespace paceline::worker {
namespace {

constexpr int32_t kPromptTokens = 48;
constexpr int32_t kMaxTokens = 1 << 20;  // nothing ends

class Bench {
 public:
  Bench(int32_t num_running, int32_t num_waiting, int32_t num_blocks)
      : cache_(CacheOptions(num_blocks)), scheduler_(Options(num_running), &cache_) {
    Add(num_running);
    while (scheduler_.load().waiting > 0 || scheduler_.load().waiting_tokens > 0) Step();
    Add(num_waiting);
    Step();
  }

  void Step() {
    const Batch& batch = scheduler_.Next(1);
    sampled_.clear();
    for (const BatchEntry& entry : batch.entries) {
      for (Sequence* sequence : entry.samplers) {
        sampled_.push_back({sequence, static_cast<int32_t>(++random_ * 2654435761u >> 17), false});
      }
    }
    scheduler_.Commit(sampled_, 2);
  }

  const Scheduler& scheduler() const { return scheduler_; }
  const KvCache& cache() const { return cache_; }

 private:
  static KvCache::Options CacheOptions(int32_t num_blocks) {
    KvCache::Options options;
    options.num_blocks = num_blocks;
    options.model_digest = "bench";
    return options;
  }
  static Scheduler::Options Options(int32_t num_running) {
    Scheduler::Options options;
    options.max_num_seqs = num_running;
    options.max_num_batched_tokens = 64 * num_running;  // all prompts in the first step
    options.max_model_len = kPromptTokens + kMaxTokens;
    options.max_waiting_seqs = 1 << 20;
    options.max_waiting_tokens = 1 << 30;
    options.vocab_size = 1 << 15;
    options.eos_token_ids = {2};
    return options;
  }

  void Add(int32_t count) {
    for (int32_t i = 0; i < count; ++i) {
      auto request = std::make_shared<Request>();
      request->id = std::to_string(next_id_++);
      for (int32_t t = 0; t < kPromptTokens; ++t) {
        request->token_ids.push_back(static_cast<int32_t>(++random_ * 2654435761u >> 17));
      }
      request->num_prompt_tokens = kPromptTokens;
      request->sampling.max_tokens = max_tokens();
      request->sampling.ignore_eos = true;
      const absl::Status status = scheduler_.Add(request, 1);
      PACELINE_CHECK(status.ok(), status.ToString());
    }
  }
  int32_t max_tokens() const {
    return std::min(kMaxTokens, cache_.num_blocks() * cache_.block_size() - kPromptTokens);
  }

  KvCache cache_;
  Scheduler scheduler_;
  std::vector<Sampled> sampled_;
  uint32_t random_ = 1;
  int64_t next_id_ = 0;
};

// Steps on one world until its sequences are long, then starts again, untimed: often enough to keep
// memory small, seldom enough for setting up not to take all the time.
int32_t StepsPerWorld(int32_t num_running) {
  return std::clamp(2'000'000 / num_running, 1'000, 100'000);
}

void RunSteps(benchmark::State& state, int32_t num_waiting) {
  const int32_t num_running = static_cast<int32_t>(state.range(0));
  const int32_t steps_per_world = StepsPerWorld(num_running);
  const int32_t num_blocks = num_running * (2 + (kPromptTokens + steps_per_world + 20) / 32);
  std::unique_ptr<Bench> bench;
  int32_t steps = steps_per_world;
  for (auto _ : state) {
    if (steps == steps_per_world) {
      state.PauseTiming();
      bench.reset();
      bench = std::make_unique<Bench>(num_running, num_waiting, num_blocks);
      steps = 0;
      state.ResumeTiming();
    }
    bench->Step();
    ++steps;
  }
  PACELINE_CHECK(bench->scheduler().load().running == num_running, "not the load it claims");
  PACELINE_CHECK(bench->scheduler().load().waiting == num_waiting, "not the load it claims");
  PACELINE_CHECK(bench->scheduler().counters().preemptions == 0, "not the load it claims");
  // Seconds per sequence and step; shown with its SI prefix.
  state.counters["s_per_seq"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * num_running,
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void Decode(benchmark::State& state) { RunSteps(state, 0); }
void DecodeWaiting10000(benchmark::State& state) { RunSteps(state, 10'000); }

// What a whole request of 48 + 16 tokens costs from Add to TakeFinished, 64 at a time.
void RequestLife(benchmark::State& state) {
  KvCache::Options cache_options;
  cache_options.num_blocks = 4096;
  KvCache cache(cache_options);
  Scheduler::Options options;
  options.max_num_seqs = 64;
  options.max_num_batched_tokens = 4096;
  options.max_model_len = 4096;
  options.vocab_size = 1 << 15;
  Scheduler scheduler(options, &cache);
  std::vector<Sampled> sampled;
  std::vector<Finished> finished;
  uint32_t random = 1;
  for (auto _ : state) {
    for (int32_t i = 0; i < 64; ++i) {
      auto request = std::make_shared<Request>();
      request->id = std::to_string(i);
      for (int32_t t = 0; t < kPromptTokens; ++t) {
        request->token_ids.push_back(static_cast<int32_t>(++random * 2654435761u >> 17));
      }
      request->num_prompt_tokens = kPromptTokens;
      PACELINE_CHECK(scheduler.Add(request, 1).ok(), "refused");
    }
    while (scheduler.has_runnable()) {
      const Batch& batch = scheduler.Next(1);
      sampled.clear();
      for (const BatchEntry& entry : batch.entries) {
        for (Sequence* sequence : entry.samplers) sampled.push_back({sequence, 7, false});
      }
      scheduler.Commit(sampled, 2);
      scheduler.TakeFinished(finished);
    }
  }
  state.SetItemsProcessed(state.iterations() * 64);
}

BENCHMARK(Decode)->Arg(1)->Arg(100)->Arg(1000)->Arg(10'000)->Unit(benchmark::kMicrosecond);
BENCHMARK(DecodeWaiting10000)->Arg(1)->Iterations(200'000)->Unit(benchmark::kMicrosecond);
BENCHMARK(DecodeWaiting10000)->Arg(100)->Iterations(40'000)->Unit(benchmark::kMicrosecond);
BENCHMARK(DecodeWaiting10000)->Arg(10'000)->Iterations(1'000)->Unit(benchmark::kMicrosecond);
BENCHMARK(RequestLife)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace paceline::worker

BENCHMARK_MAIN();
