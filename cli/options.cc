#include "cli/options.h"

#include <cctype>
#include <cmath>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "cli/config_file.h"

namespace paceline::cli {
namespace {

template <typename T>
CLI::Option* Add(CLI::App& app, const std::string& long_name, T& value, const std::string& help) {
  return app.add_option("--" + long_name, value, help)
      ->envname(EnvironmentName(long_name))
      ->capture_default_str();
}

// A switch that is on or off by name: --x, --no-x.
CLI::Option* AddSwitch(CLI::App& app,
                       const std::string& long_name,
                       bool& value,
                       const std::string& help) {
  return app.add_flag("--" + long_name + ",!--no-" + long_name, value, help)
      ->envname(EnvironmentName(long_name));
}

const CLI::Validator& Port() {
  static const CLI::Range range(0, 65535);
  return range;
}

const CLI::Validator& ByteSize() {
  static const CLI::Validator validator(
      [](std::string& text) {
        return ParseBytes(text) > 0 ? std::string() : "not a size such as 512MiB or 2GB: " + text;
      },
      "SIZE");
  return validator;
}

}  // namespace

int64_t ParseBytes(const std::string& text) {
  size_t digits = 0;
  while (digits < text.size() &&
         (std::isdigit(static_cast<unsigned char>(text[digits])) != 0 || text[digits] == '.')) {
    ++digits;
  }
  double value = 0;
  if (digits == 0 || !absl::SimpleAtod(text.substr(0, digits), &value)) return -1;
  const std::string unit = absl::AsciiStrToLower(text.substr(digits));
  static constexpr std::pair<std::string_view, double> kUnits[] = {{"", 1},
                                                                   {"b", 1},
                                                                   {"k", 1024.0},
                                                                   {"kb", 1e3},
                                                                   {"kib", 1024.0},
                                                                   {"m", 1048576.0},
                                                                   {"mb", 1e6},
                                                                   {"mib", 1048576.0},
                                                                   {"g", 1073741824.0},
                                                                   {"gb", 1e9},
                                                                   {"gib", 1073741824.0},
                                                                   {"t", 1099511627776.0},
                                                                   {"tb", 1e12},
                                                                   {"tib", 1099511627776.0}};
  for (const auto& [name, factor] : kUnits) {
    const double bytes = value * factor;
    if (unit == name) return bytes < 9e18 ? static_cast<int64_t>(bytes) : -1;
  }
  return -1;
}

// Not required(): CLI11 would ask for --model where the usage says MODEL. CheckModelPath() asks.
void AddModelOption(CLI::App& command, std::string& model, bool positional) {
  constexpr char kHelp[] = "Path of a GGUF file";
  CLI::Option* option =
      positional ? command.add_option("model,--model", model, kHelp)->option_text("MODEL")
                 : command.add_option("--model", model, kHelp)->option_text("MODEL");
  option->envname("PACELINE_MODEL");
}

void AddConfigOption(CLI::App& app, std::string& path) {
  app.add_option("--config", path, "YAML file; keys are the long option names")
      ->envname("PACELINE_CONFIG");
}

void AddLogOptions(CLI::App& app, LogOptions& options) {
  Add(app, "log-level", options.level, "How much to log")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}));
  Add(app, "log-format", options.format, "How to log")->check(CLI::IsMember({"text", "json"}));
}

void AddOperatorHost(CLI::App& app, std::string& host) {
  Add(app, "operator-host", host, "Address of the ports for operators");
}

void AddTlsOptions(CLI::App& app,
                   const std::string& prefix,
                   const std::string& peer,
                   TlsOptions& options) {
  Add(app,
      prefix + "-cert-file",
      options.cert_file,
      "Certificate in PEM, then those above it; default: none");
  Add(app, prefix + "-key-file", options.key_file, "Its private key in PEM");
  Add(app,
      prefix + "-ca-file",
      options.ca_file,
      absl::StrCat("Authorities in PEM, one of which must have signed the ", peer, "'s"));
}

void AddClientTlsOptions(CLI::App& app, TlsOptions& options, std::string& server_name) {
  AddTlsOptions(app, "tls", "server", options);
  app.add_option("--tls-server-name",
                 server_name,
                 "Name in the server's certificate; default: the URL's host");
}

void AddWorkerPlaneOptions(CLI::App& app, const std::string& peer, WorkerPlaneOptions& options) {
  AddTlsOptions(app, "worker-tls", peer, options.tls);
  Add(app,
      "worker-token-file",
      options.token_file,
      "Tokens, one a line: workers take any of them, routers and ranks show the first");
}

void AddEngineOptions(CLI::App& app, EngineOptions& options) {
  Add(app,
      "served-model-name",
      options.served_model_name,
      "Name that clients use; default: the file's name");
  Add(app, "threads", options.threads, "Threads per rank; default: its share of the cores")
      ->check(CLI::Range(1, 256));
  Add(app,
      "kv-cache-memory",
      options.kv_cache_memory,
      "Memory for the KV cache, such as 512MiB; default: from the machine's memory")
      ->check(ByteSize());
  Add(app, "device", options.device, "auto: a GPU where there is one that works, else the CPU")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  Add(app,
      "gpu-memory-utilization",
      options.gpu_memory_utilization,
      "Part of a GPU's memory to use: weights, workspace and what is left for the KV cache")
      ->check(CLI::Range(0.05, 1.0));
  Add(app,
      "compute-dtype",
      options.compute_dtype,
      "auto: int8 activations on the CPU, bf16 on GPUs; float32: the CPU's reference path; bf16, "
      "f16: on GPUs")
      ->check(CLI::IsMember({"auto", "float32", "bf16", "f16"}));
  Add(app,
      "kv-cache-dtype",
      options.kv_cache_dtype,
      "auto: f16 on the CPU, float32 with --compute-dtype float32, --compute-dtype's on GPUs; "
      "int8: nearly twice as many tokens; fp8: as many, on GPUs")
      ->check(CLI::IsMember({"auto", "f16", "int8", "fp8"}));
  Add(app,
      "prefill-attention",
      options.prefill_attention,
      "Attention of prompts on a GPU; wgmma: the kernel for Hoppers (sm_90), which has not run on "
      "one yet")
      ->check(CLI::IsMember({"mma", "wgmma"}));
  Add(app, "max-model-len", options.max_model_len, "Context length; default: the model's")
      ->check(CLI::Range(2, 1 << 24));
  Add(app, "max-num-seqs", options.max_num_seqs, "Sequences in a batch at most")
      ->check(CLI::Range(1, 65536));
  Add(app, "max-num-batched-tokens", options.max_num_batched_tokens, "Tokens in a step at most")
      ->check(CLI::Range(1, 65536));
  Add(app, "block-size", options.block_size, "Tokens per KV block (CPU: 32)")
      ->check(CLI::IsMember({32}));
  AddSwitch(app,
            "enable-prefix-caching",
            options.enable_prefix_caching,
            "Reuse the KV cache of equal prompt beginnings");
  Add(app,
      "step-trace",
      options.step_trace,
      "File for a trace of engine steps and their phases, for Perfetto; default: none");
  Add(app, "tensor-parallel-size", options.tensor_parallel_size, "Ranks per stage (also -tp)")
      ->check(CLI::Range(1, 64));
  Add(app,
      "tensor-parallel-mode",
      options.tensor_parallel_mode,
      "exact: the bits of one rank; fast: half the exchanges, bits of its own")
      ->check(CLI::IsMember({"exact", "fast"}));
  Add(app, "pipeline-parallel-size", options.pipeline_parallel_size, "Stages (also -pp)")
      ->check(CLI::Range(1, 64));
}

void AddWorkerOptions(CLI::App& app, WorkerOptions& options) {
  AddEngineOptions(app, options.engine);
  Add(app, "lease-ms", options.lease_ms, "Silence after which a peer counts as dead")
      ->check(CLI::Range(100, 600'000));
  AddSwitch(app, "vllm-metrics", options.vllm_metrics, "Export vllm: metric names as well");
}

void AddNodeOptions(CLI::App& app, NodeOptions& options) {
  const auto add = [&app](const char* name, auto& value, const char* help) {
    return app.add_option(absl::StrCat("--", name), value, help)->envname(EnvironmentName(name));
  };
  add("nnodes", options.count, "Hosts that share the ranks; default: LWS_GROUP_SIZE, or 1")
      ->check(CLI::Range(1, 64));
  add("node-rank", options.rank, "Number of this host, from 0; default: LWS_WORKER_INDEX")
      ->check(CLI::Range(0, 63));
  add("master-addr", options.master_addr, "Address of node 0; default: LWS_LEADER_ADDRESS");
  Add(app, "master-port", options.master_port, "Port at node 0 where the ranks meet")
      ->check(Port());
}

void AddTracesEndpoint(CLI::App& app, std::string& url) {
  Add(app,
      "otlp-traces-endpoint",
      url,
      "URL of an OpenTelemetry collector's traces (OTLP over HTTP); default: none");
}

void AddDrainSeconds(CLI::App& app, int32_t& seconds) {
  Add(app, "drain-seconds", seconds, "How long running streams may go on at shutdown")
      ->check(CLI::Range(0, 3600));
}

void AddRouterOptions(CLI::App& app, RouterOptions& options) {
  Add(app, "host", options.host, "Address to listen on");
  Add(app, "port", options.port, "HTTP port (0: a free one)")->check(Port());
  Add(app, "grpc-port", options.grpc_port, "gRPC port (0: a free one)")->check(Port());
  Add(app, "api-key", options.api_keys, "Keys that clients must show; default: none needed")
      ->envname("PACELINE_API_KEY");
  Add(app,
      "api-key-file",
      options.api_key_file,
      "File of such keys, one a line, read again when it changes");
  AddTlsOptions(app, "tls", "clients", options.tls);
  AddSwitch(app, "operator-tls", options.operator_tls, "TLS on the operator port too");
  AddOperatorHost(app, options.operator_host);
  Add(app, "operator-port", options.operator_port, "Port of /metrics and the status page")
      ->check(Port());
  app.add_option(
         "--admin-port", options.admin_port, "Port of the gRPC Admin service; default: none")
      ->check(Port())
      ->envname("PACELINE_ADMIN_PORT");
  Add(app, "admin-key", options.admin_keys, "Keys that the Admin service asks for");
  Add(app, "admin-key-file", options.admin_key_file, "File of such keys, as --api-key-file");
  Add(app, "balance", options.balance, "How to pick a replica")
      ->check(CLI::IsMember({"prefix", "least_loaded", "power_of_two", "round_robin", "session"}));
  Add(app, "max-queued-requests", options.max_queued_requests, "Requests that may wait")
      ->check(CLI::Range(1, 1 << 20));
  Add(app, "max-queued-tokens", options.max_queued_tokens, "Prompt tokens that may wait")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 32));
  Add(app,
      "failover-wait-seconds",
      options.failover_wait_seconds,
      "How long a running stream whose replica is lost waits for one to go on at")
      ->check(CLI::Range(0, 3600));
  AddSwitch(app,
            "allow-unknown-fields",
            options.allow_unknown_fields,
            "Ignore request fields that are not known instead of refusing them");
  AddTracesEndpoint(app, options.otlp_traces_endpoint);
  AddDrainSeconds(app, options.drain_seconds);
}

}  // namespace paceline::cli
