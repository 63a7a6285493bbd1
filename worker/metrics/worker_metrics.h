// Every metric of a worker: its own (paceline_worker_*) and the names that dashboards for vLLM read
// (vllm:*, with vLLM's labels and buckets). Owned by the worker process; the engine thread
// publishes, the metrics page reads from any thread (prometheus-cpp's objects are thread-safe).
//
// To add one: a field here, a line in the constructor, a line where the engine publishes.
#ifndef PACELINE_WORKER_METRICS_WORKER_METRICS_H_
#define PACELINE_WORKER_METRICS_WORKER_METRICS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace paceline::worker {

struct WorkerMetricsOptions {
  std::string model_name;
  int32_t max_model_len = 0;  // tokens: the last bucket of token counts
  int32_t block_size = 0;     // tokens
  int32_t num_blocks = 0;
  bool prefix_caching = true;
  bool vllm_names = true;
  int32_t num_ranks = 1;  // whose work is known here
  int32_t restarts = 0;   // of its ranks, so far
  bool has_gpu = false;
};

// Of one rank.
struct RankSeries {
  prometheus::Counter* steps;
  prometheus::Counter* compute_seconds;
  prometheus::Counter* wait_seconds;  // in exchanges with other ranks
  // With a GPU, else null: its layers in the passes that are timed, and exchanges in them.
  prometheus::Counter* device_seconds;
  prometheus::Counter* device_exchange_seconds;
  prometheus::Gauge* up;  // 1: it shows that it lives
};

class WorkerMetrics {
 public:
  explicit WorkerMetrics(const WorkerMetricsOptions& options);

  // The metrics page, Prometheus text format.
  std::string Text() const;

  // ---- paceline_worker_*
  prometheus::Counter* steps;
  prometheus::Histogram* prefill_step_seconds;  // steps with at least one prefill token
  prometheus::Histogram* decode_step_seconds;   // steps of decodes only
  prometheus::Histogram* schedule_seconds;      // planning and committing one step
  prometheus::Counter* prefill_tokens;          // computed, recomputation after preemption included
  prometheus::Counter* decode_tokens;
  prometheus::Gauge* running;
  prometheus::Gauge* waiting;
  prometheus::Gauge* paused;
  prometheus::Gauge* waiting_tokens;
  prometheus::Gauge* kv_blocks_used;
  prometheus::Gauge* kv_blocks_cached;
  prometheus::Gauge* kv_blocks_free;
  prometheus::Counter* prefix_evictions;
  prometheus::Gauge* sessions;
  prometheus::Gauge* weight_bytes;
  prometheus::Gauge* kv_cache_bytes;
  // Null without a GPU.
  prometheus::Gauge* gpu_memory_used = nullptr;  // by all processes
  prometheus::Gauge* gpu_memory_total = nullptr;
  prometheus::Gauge* gpu_utilization = nullptr;  // 0..1
  std::vector<RankSeries> ranks;                 // [num_ranks]

  // ---- vllm:* (registered only with vllm_names; otherwise kept but not shown)
  prometheus::Gauge* vllm_running;
  prometheus::Gauge* vllm_waiting;
  prometheus::Gauge* vllm_kv_usage;  // 0..1
  prometheus::Counter* vllm_preemptions;
  prometheus::Counter* vllm_prefix_queries;  // tokens
  prometheus::Counter* vllm_prefix_hits;     // tokens
  prometheus::Counter* vllm_prompt_tokens;
  prometheus::Counter* vllm_generation_tokens;
  prometheus::Counter* vllm_success_stop;
  prometheus::Counter* vllm_success_length;
  prometheus::Counter* vllm_success_abort;
  prometheus::Counter* vllm_success_error;
  prometheus::Histogram* vllm_iteration_tokens;
  prometheus::Histogram* vllm_ttft;
  prometheus::Histogram* vllm_itl;
  prometheus::Histogram* vllm_tpot;
  prometheus::Histogram* vllm_e2e;
  prometheus::Histogram* vllm_queue;
  prometheus::Histogram* vllm_prefill;
  prometheus::Histogram* vllm_decode;
  prometheus::Histogram* vllm_inference;
  prometheus::Histogram* vllm_request_prompt_tokens;
  prometheus::Histogram* vllm_request_generation_tokens;
  prometheus::Histogram* vllm_params_max_tokens;
  prometheus::Histogram* vllm_params_n;

 private:
  prometheus::Registry own_;
  prometheus::Registry vllm_;
  const bool show_vllm_;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_METRICS_WORKER_METRICS_H_
