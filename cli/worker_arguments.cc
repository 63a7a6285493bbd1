#include "cli/worker_arguments.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace paceline::cli {

std::vector<std::string> WorkerArguments(const WorkerOptions& options, const LogOptions& log) {
  const EngineOptions& engine = options.engine;
  std::vector<std::string> arguments = {
      "worker",
      "--model",
      engine.model,
      "--host",
      options.host,
      "--port",
      absl::StrCat(options.port),
      "--operator-host",
      options.operator_host,
      "--replicas-on-host",
      absl::StrCat(engine.replicas_on_host),
      "--replica-on-host",
      absl::StrCat(engine.replica_on_host),
      "--device",
      engine.device,
      "--gpu-memory-utilization",
      absl::StrCat(engine.gpu_memory_utilization),
      "--log-level",
      log.level,
      "--log-format",
      log.format,
      "--compute-dtype",
      engine.compute_dtype,
      "--kv-cache-dtype",
      engine.kv_cache_dtype,
      "--prefill-attention",
      engine.prefill_attention,
      "--max-num-seqs",
      absl::StrCat(engine.max_num_seqs),
      "--max-num-batched-tokens",
      absl::StrCat(engine.max_num_batched_tokens),
      "--tensor-parallel-mode",
      engine.tensor_parallel_mode,
      "--tensor-parallel-size",
      absl::StrCat(engine.tensor_parallel_size),
      "--pipeline-parallel-size",
      absl::StrCat(engine.pipeline_parallel_size),
      "--drain-seconds",
      absl::StrCat(options.drain_seconds),
      "--lease-ms",
      absl::StrCat(options.lease_ms),
      engine.enable_prefix_caching ? "--enable-prefix-caching" : "--no-enable-prefix-caching",
      options.vllm_metrics ? "--vllm-metrics" : "--no-vllm-metrics"};
  const auto add = [&arguments](const char* name, std::string value) {
    arguments.push_back(name);
    arguments.push_back(std::move(value));
  };
  if (options.die_with_parent) arguments.push_back("--die-with-parent");
  const WorkerPlaneOptions& plane = options.plane;
  if (!plane.tls.cert_file.empty()) add("--worker-tls-cert-file", plane.tls.cert_file);
  if (!plane.tls.key_file.empty()) add("--worker-tls-key-file", plane.tls.key_file);
  if (!plane.tls.ca_file.empty()) add("--worker-tls-ca-file", plane.tls.ca_file);
  if (!plane.token_file.empty()) add("--worker-token-file", plane.token_file);
  if (options.operator_tls) arguments.push_back("--operator-tls");
  if (options.operator_port >= 0) add("--operator-port", absl::StrCat(options.operator_port));
  if (!engine.served_model_name.empty()) add("--served-model-name", engine.served_model_name);
  if (!options.otlp_traces_endpoint.empty()) {
    add("--otlp-traces-endpoint", options.otlp_traces_endpoint);
  }
  if (engine.threads > 0) add("--threads", absl::StrCat(engine.threads));
  if (!engine.kv_cache_memory.empty()) add("--kv-cache-memory", engine.kv_cache_memory);
  if (engine.max_model_len > 0) add("--max-model-len", absl::StrCat(engine.max_model_len));
  if (!engine.step_trace.empty()) add("--step-trace", engine.step_trace);
  if (options.nodes.count > 1) {
    add("--nnodes", absl::StrCat(options.nodes.count));
    add("--node-rank", absl::StrCat(options.nodes.rank));
    add("--master-addr", options.nodes.master_addr);
    add("--master-port", absl::StrCat(options.nodes.master_port));
  }
  if (options.rank >= 0) {
    add("--rank", absl::StrCat(options.rank));
    add("--rank-restarts", absl::StrCat(options.rank_restarts));
    if (!options.rank_fds.empty()) add("--rank-fds", absl::StrJoin(options.rank_fds, ","));
    for (const std::string& argument : options.worker_arguments) {
      arguments.push_back(absl::StrCat("--worker-argument=", argument));
    }
  }
  return arguments;
}

}  // namespace paceline::cli
