// Every option of the command, by process: parsed in one place (options.cc), from the command line,
// then PACELINE_* environment variables, then the file given with --config (YAML), then defaults.
// Plain values; each part of the program gets its own nested struct and reads nothing else.
#ifndef PACELINE_CLI_OPTIONS_H_
#define PACELINE_CLI_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"

namespace paceline::cli {

struct LogOptions {
  std::string level = "info";
  std::string format = "text";
};

// Files in PEM for TLS; empty: not given.
struct TlsOptions {
  std::string cert_file;  // the own certificate, then those above it
  std::string key_file;
  std::string ca_file;  // who must have signed the other side's
};

// One rank's model and engine: worker, generate, bench.
struct EngineOptions {
  std::string model;                    // path of a GGUF file
  std::string served_model_name;        // empty: the file's name without extension
  int32_t threads = 0;                  // 0: this replica's share of the cores
  std::string kv_cache_memory;          // "512MiB", "2GB", bytes; empty: from the machine's memory
  std::string device = "auto";          // auto (a GPU where there is one), cpu, cuda
  double gpu_memory_utilization = 0.9;  // of a GPU's memory
  std::string compute_dtype = "auto";   // auto (CPU: int8, GPU: bf16), float32 (CPU), bf16, f16
  std::string kv_cache_dtype =
      "auto";  // auto (f16, or f32 with compute_dtype float32), f16, int8, fp8
  std::string prefill_attention = "mma";  // mma, wgmma (a Hopper)
  int32_t max_model_len = 0;              // tokens; 0: the model's context
  int32_t max_num_seqs = 256;
  int32_t max_num_batched_tokens = 512;
  int32_t block_size = 32;
  bool enable_prefix_caching = true;
  int32_t tensor_parallel_size = 1;
  std::string tensor_parallel_mode = "exact";  // exact, fast
  int32_t pipeline_parallel_size = 1;
  std::string step_trace;        // file for the trace of engine steps; empty: none
  int32_t replicas_on_host = 1;  // shares memory, cores and GPUs with so many others
  int32_t replica_on_host = 0;   // which of them it is
  int32_t num_nodes = 1;         // hosts that share its ranks evenly
};

// What routers and workers show each other.
struct WorkerPlaneOptions {
  TlsOptions tls;
  std::string server_name;  // router: what workers' certificates bear; empty: their address
  std::string token_file;
};

// The hosts that share a worker's ranks, each with a supervisor of its own (cli/nodes.h).
struct NodeOptions {
  int32_t count = 0;        // 0: not given
  int32_t rank = -1;        // of this host; -1: not given
  std::string master_addr;  // of node 0
  int32_t master_port = 29500;
};

struct WorkerOptions {
  EngineOptions engine;
  NodeOptions nodes;
  std::string host = "127.0.0.1";
  int32_t port = 50061;
  WorkerPlaneOptions plane;
  std::string operator_host = "127.0.0.1";
  int32_t operator_port = -1;  // metrics and health; -1: none
  bool operator_tls = false;   // there too, with the worker plane's certificate
  int32_t lease_ms = 2000;
  bool vllm_metrics = true;
  int32_t drain_seconds = 30;
  std::string otlp_traces_endpoint;  // URL of a trace collector; empty: none
  bool die_with_parent = false;      // set by whoever starts it
  // Set for the ranks of a worker that has several: which one, and the memory that they share.
  int32_t rank = -1;
  std::vector<int> rank_fds;
  int32_t rank_restarts = 0;                  // how often they were started anew
  std::vector<std::string> worker_arguments;  // the worker's, from which rank 0 follows --config
};

struct RouterOptions {
  std::vector<std::string> workers;
  WorkerPlaneOptions plane;
  std::string host = "127.0.0.1";
  int32_t port = 8000;
  int32_t grpc_port = 50051;
  std::vector<std::string> api_keys;
  std::string api_key_file;                 // more of them, one a line; empty: none
  TlsOptions tls;                           // of HTTP, gRPC and Admin
  std::string operator_host = "127.0.0.1";  // of the next two
  int32_t operator_port = 8002;             // metrics and status page
  bool operator_tls = false;                // there too
  int32_t admin_port = -1;                  // gRPC Admin; -1: none
  std::vector<std::string> admin_keys;
  std::string admin_key_file;
  std::string balance = "prefix";
  int32_t max_queued_requests = 1024;
  int64_t max_queued_tokens = 1 << 20;
  int32_t failover_wait_seconds = 15;
  bool allow_unknown_fields = false;
  bool vllm_metrics = true;
  std::string otlp_traces_endpoint;  // URL of a trace collector; empty: none
  int32_t drain_seconds = 30;
};

struct ServeOptions {
  WorkerOptions worker;
  RouterOptions router;
  int32_t replicas = 1;
};

struct GenerateOptions {
  EngineOptions engine;
  std::vector<std::string> prompts;  // -p
  std::string input;                 // -f
  std::string output;                // -o
  int32_t max_tokens = 128;
  double temperature = 0.0;
  int64_t seed = -1;
  bool chat = false;  // -p is a user message
};

struct ChatOptions {
  std::string url = "http://127.0.0.1:8000";
  std::string model;
  std::string message;  // not empty: ask this, print the answer, leave
  std::string system;
  std::string api_key;
  std::string api_key_file;  // its first key is used
  TlsOptions tls;
  std::string tls_server_name;  // empty: the URL's host
  int32_t max_tokens = 0;       // 0: the rest of the context
  double temperature = 0.8;
  double min_p = 0.05;
};

struct HealthOptions {
  std::string url = "http://127.0.0.1:8002/health";
  TlsOptions tls;
  std::string tls_server_name;  // empty: the URL's host
  int32_t timeout_seconds = 2;
};

struct TokenizeOptions {
  std::string model;
  bool jsonl = false;
  bool chat = false;
  std::string chat_template;  // file
};

struct BenchOptions {
  EngineOptions engine;  // engine.model may be a URL once the online form exists
  int32_t prompt_tokens = 128;
  int32_t output_tokens = 128;
  std::vector<int32_t> batches = {1};
  int32_t repetitions = 3;
  bool json = false;
};

// Adds the options of a process to its sub-command.
void AddModelOption(CLI::App& command, std::string& model, bool positional);
void AddLogOptions(CLI::App& app, LogOptions& options);
// --PREFIX-cert-file, --PREFIX-key-file, --PREFIX-ca-file; `peer` names the other side.
void AddTlsOptions(CLI::App& app,
                   const std::string& prefix,
                   const std::string& peer,
                   TlsOptions& options);
void AddOperatorHost(CLI::App& app, std::string& host);
void AddTracesEndpoint(CLI::App& app, std::string& url);
// Those, and --tls-server-name, for a command that talks to a server.
void AddClientTlsOptions(CLI::App& app, TlsOptions& options, std::string& server_name);
// --worker-tls-… and --worker-token-file; `peer` names the other side.
void AddWorkerPlaneOptions(CLI::App& app, const std::string& peer, WorkerPlaneOptions& options);
void AddDrainSeconds(CLI::App& app, int32_t& seconds);
void AddEngineOptions(CLI::App& app, EngineOptions& options);
void AddWorkerOptions(CLI::App& app, WorkerOptions& options);
void AddNodeOptions(CLI::App& app, NodeOptions& options);
void AddRouterOptions(CLI::App& app, RouterOptions& options);
// --config FILE (cli/config_file.h reads it before the options are parsed).
void AddConfigOption(CLI::App& app, std::string& path);

// Bytes of "2GB", "512MiB", "1.5G", "1048576". Negative: not a size.
int64_t ParseBytes(const std::string& text);

}  // namespace paceline::cli

#endif  // PACELINE_CLI_OPTIONS_H_
