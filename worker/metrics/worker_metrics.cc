#include "worker/metrics/worker_metrics.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "prometheus/text_serializer.h"

namespace paceline::worker {
namespace {

using prometheus::Histogram;
using prometheus::Labels;
using prometheus::Registry;

// vLLM's buckets, so that its dashboards and recording rules work unchanged.
const Histogram::BucketBoundaries kTtftBuckets = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,
                                                  0.25,  0.5,   0.75, 1.0,  2.5,  5.0,  7.5,  10.0,
                                                  20.0,  40.0,  80,   160,  640,  2560};
const Histogram::BucketBoundaries kTokenTimeBuckets = {0.01,
                                                       0.025,
                                                       0.05,
                                                       0.075,
                                                       0.1,
                                                       0.15,
                                                       0.2,
                                                       0.3,
                                                       0.4,
                                                       0.5,
                                                       0.75,
                                                       1.0,
                                                       2.5,
                                                       5.0,
                                                       7.5,
                                                       10.0,
                                                       20.0,
                                                       40.0,
                                                       80};
const Histogram::BucketBoundaries kRequestTimeBuckets = {
    0.3,  0.5,  0.8,  1.0,  1.5,   2.0,   2.5,   5.0,   10.0,   15.0,  20.0,
    30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0};
const Histogram::BucketBoundaries kIterationBuckets = {
    1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
const Histogram::BucketBoundaries kChoiceBuckets = {1, 2, 5, 10, 20};
// Steps on a CPU: from a fraction of a millisecond to seconds.
const Histogram::BucketBoundaries kStepBuckets = {
    0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.0, 4.0};
const Histogram::BucketBoundaries kScheduleBuckets = {
    1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 5e-3, 2e-2};

// 1 2 5 10 20 50 … up to `limit`.
Histogram::BucketBoundaries TokenBuckets(int64_t limit) {
  Histogram::BucketBoundaries buckets;
  for (int64_t decade = 1; decade <= limit; decade *= 10) {
    for (const int64_t step : {1, 2, 5}) {
      if (decade * step <= limit) buckets.push_back(static_cast<double>(decade * step));
    }
  }
  if (buckets.empty()) buckets.push_back(1);
  return buckets;
}

// Families of one registry with the labels that all its metrics carry.
struct Families {
  Registry& registry;
  Labels labels;

  prometheus::Counter* Counter(const std::string& name,
                               const std::string& help,
                               const Labels& more = {}) {
    return &prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add(With(more));
  }
  prometheus::Gauge* Gauge(const std::string& name,
                           const std::string& help,
                           const Labels& more = {}) {
    return &prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add(With(more));
  }
  prometheus::Histogram* Histogram(const std::string& name,
                                   const std::string& help,
                                   const prometheus::Histogram::BucketBoundaries& buckets,
                                   const Labels& more = {}) {
    return &prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add(With(more),
                                                                                      buckets);
  }
  Labels With(const Labels& more) const {
    Labels all = labels;
    all.insert(more.begin(), more.end());
    return all;
  }
};

}  // namespace

WorkerMetrics::WorkerMetrics(const WorkerMetricsOptions& options) : show_vllm_(options.vllm_names) {
  Families own{own_, {{"model", options.model_name}}};
  const std::string p = "paceline_worker_";
  steps = own.Counter(p + "steps_total", "Engine steps with work in them.");
  const std::string step_help = "Duration of one engine step, by phase.";
  prefill_step_seconds =
      own.Histogram(p + "step_seconds", step_help, kStepBuckets, {{"phase", "prefill"}});
  decode_step_seconds =
      own.Histogram(p + "step_seconds", step_help, kStepBuckets, {{"phase", "decode"}});
  schedule_seconds =
      own.Histogram(p + "schedule_seconds", "Planning and committing one step.", kScheduleBuckets);
  const std::string token_help = "Tokens computed, by phase; recomputed ones count again.";
  prefill_tokens = own.Counter(p + "computed_tokens_total", token_help, {{"phase", "prefill"}});
  decode_tokens = own.Counter(p + "computed_tokens_total", token_help, {{"phase", "decode"}});
  const std::string sequence_help = "Sequences by state.";
  running = own.Gauge(p + "sequences", sequence_help, {{"state", "running"}});
  waiting = own.Gauge(p + "sequences", sequence_help, {{"state", "waiting"}});
  paused = own.Gauge(p + "sequences", sequence_help, {{"state", "paused"}});
  waiting_tokens = own.Gauge(p + "waiting_tokens", "Prompt tokens still to compute.");
  const std::string block_help = "KV blocks by state; cached ones are free but remembered.";
  kv_blocks_used = own.Gauge(p + "kv_blocks", block_help, {{"state", "used"}});
  kv_blocks_cached = own.Gauge(p + "kv_blocks", block_help, {{"state", "cached"}});
  kv_blocks_free = own.Gauge(p + "kv_blocks", block_help, {{"state", "free"}});
  prefix_evictions = own.Counter(p + "prefix_evictions_total", "Cached KV blocks given up.");
  sessions = own.Gauge(p + "sessions", "Attached routers.");
  weight_bytes = own.Gauge(p + "weight_bytes", "Memory of the packed weights.");
  kv_cache_bytes = own.Gauge(p + "kv_cache_bytes", "Memory reserved for the KV cache.");
  if (options.has_gpu) {
    const std::string memory_help =
        "Memory of the leader's GPU, used by all processes, and in all.";
    gpu_memory_used = own.Gauge(p + "gpu_memory_bytes", memory_help, {{"state", "used"}});
    gpu_memory_total = own.Gauge(p + "gpu_memory_bytes", memory_help, {{"state", "total"}});
    gpu_utilization =
        own.Gauge(p + "gpu_utilization", "Part of the time in which the leader's GPU works.");
  }

  for (int32_t rank = 0; rank < options.num_ranks; ++rank) {
    const Labels labels = {{"rank", absl::StrCat(rank)}};
    ranks.push_back({.steps = own.Counter(p + "rank_steps_total", "Steps of a rank.", labels),
                     .compute_seconds = own.Counter(
                         p + "rank_compute_seconds_total", "Time of a rank at work.", labels),
                     .wait_seconds = own.Counter(p + "rank_wait_seconds_total",
                                                 "Time of a rank in exchanges with other ranks.",
                                                 labels),
                     .device_seconds = nullptr,
                     .device_exchange_seconds = nullptr,
                     .up = own.Gauge(p + "rank_up", "1: the rank shows that it lives.", labels)});
    if (!options.has_gpu || options.num_ranks == 1) continue;
    ranks.back().device_seconds =
        own.Counter(p + "rank_gpu_timed_seconds_total",
                    "Time of a rank's GPU in its layers, in one step of 128.",
                    labels);
    ranks.back().device_exchange_seconds =
        own.Counter(p + "rank_gpu_exchange_seconds_total",
                    "Of rank_gpu_timed_seconds_total, in exchanges with other ranks' GPUs.",
                    labels);
  }
  own.Counter(p + "rank_restarts_total", "How often the ranks were started anew.")
      ->Increment(options.restarts);

  Families vllm{vllm_, {{"model_name", options.model_name}, {"engine", "0"}}};
  const std::string v = "vllm:";
  vllm_running = vllm.Gauge(v + "num_requests_running", "Requests in the batch.");
  vllm_waiting = vllm.Gauge(v + "num_requests_waiting", "Requests waiting to be scheduled.");
  vllm_kv_usage = vllm.Gauge(v + "kv_cache_usage_perc", "KV cache in use, 1 is all of it.");
  vllm_preemptions = vllm.Counter(v + "num_preemptions_total", "Sequences preempted.");
  vllm_prefix_queries =
      vllm.Counter(v + "prefix_cache_queries_total", "Tokens looked up in the prefix cache.");
  vllm_prefix_hits = vllm.Counter(v + "prefix_cache_hits_total", "Tokens found in it.");
  vllm_prompt_tokens = vllm.Counter(v + "prompt_tokens_total", "Prompt tokens of requests begun.");
  vllm_generation_tokens = vllm.Counter(v + "generation_tokens_total", "Tokens generated.");
  const std::string success_help = "Finished choices by reason.";
  const auto success = [&](const char* reason) {
    return vllm.Counter(v + "request_success_total", success_help, {{"finished_reason", reason}});
  };
  vllm_success_stop = success("stop");
  vllm_success_length = success("length");
  vllm_success_abort = success("abort");
  vllm_success_error = success("error");
  vllm_iteration_tokens =
      vllm.Histogram(v + "iteration_tokens_total", "Tokens per step.", kIterationBuckets);
  vllm_ttft =
      vllm.Histogram(v + "time_to_first_token_seconds", "Arrival to first token.", kTtftBuckets);
  vllm_itl = vllm.Histogram(
      v + "inter_token_latency_seconds", "Gap between two tokens.", kTokenTimeBuckets);
  vllm_tpot = vllm.Histogram(v + "request_time_per_output_token_seconds",
                             "Mean gap between a request's tokens.",
                             kTokenTimeBuckets);
  vllm_e2e = vllm.Histogram(
      v + "e2e_request_latency_seconds", "Arrival to last token.", kRequestTimeBuckets);
  vllm_queue = vllm.Histogram(
      v + "request_queue_time_seconds", "Arrival to first scheduling.", kRequestTimeBuckets);
  vllm_prefill = vllm.Histogram(
      v + "request_prefill_time_seconds", "First scheduling to first token.", kRequestTimeBuckets);
  vllm_decode = vllm.Histogram(
      v + "request_decode_time_seconds", "First token to last token.", kRequestTimeBuckets);
  vllm_inference = vllm.Histogram(
      v + "request_inference_time_seconds", "First scheduling to last token.", kRequestTimeBuckets);
  const Histogram::BucketBoundaries token_buckets = TokenBuckets(options.max_model_len);
  vllm_request_prompt_tokens =
      vllm.Histogram(v + "request_prompt_tokens", "Prompt tokens of a request.", token_buckets);
  vllm_request_generation_tokens = vllm.Histogram(
      v + "request_generation_tokens", "Tokens generated for a request.", token_buckets);
  vllm_params_max_tokens =
      vllm.Histogram(v + "request_params_max_tokens", "max_tokens asked for.", token_buckets);
  vllm_params_n = vllm.Histogram(v + "request_params_n", "Choices asked for.", kChoiceBuckets);
  vllm.Gauge(v + "cache_config_info",
             "The KV cache's configuration.",
             {{"block_size", absl::StrCat(options.block_size)},
              {"num_gpu_blocks", absl::StrCat(options.num_blocks)},
              {"enable_prefix_caching", options.prefix_caching ? "True" : "False"}})
      ->Set(1);
}

std::string WorkerMetrics::Text() const {
  std::vector<prometheus::MetricFamily> families = own_.Collect();
  if (show_vllm_) {
    std::vector<prometheus::MetricFamily> more = vllm_.Collect();
    families.insert(families.end(), more.begin(), more.end());
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace paceline::worker
