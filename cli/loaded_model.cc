#include "cli/loaded_model.h"

#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/version.h"
#include "kernels/dispatch.h"
#include "model/gguf/gguf_file.h"
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/vocabulary_gguf.h"
#include "proto/support/clock.h"
#include "proto/support/status_macros.h"
#include "worker/device/cpu_count.h"
#include "worker/device/host_memory.h"
#include "worker/runner/model_runner.h"
#include "worker/runner/numerics.h"
#include "worker/service/tokenizer_bundle.h"

namespace paceline::cli {
namespace {

// Tells replicas apart whose process ids are equal, as they are in containers.
std::string HostName() {
  char name[HOST_NAME_MAX + 1] = {};
  return gethostname(name, sizeof(name) - 1) == 0 ? name : "host";
}

int64_t UnixMicros() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

int64_t CountParameters(const model::GgufFile& file) {
  int64_t count = 0;
  for (const model::TensorInfo& tensor : file.tensors()) count += tensor.num_elements;
  return count;
}

std::vector<int32_t> EndOfGenerationIds(const model::Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (tokenizer.IsEndOfGeneration(id)) ids.push_back(id);
  }
  return ids;
}

// Prefixes an error with the file it is about.
absl::Status InFile(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

std::string ServedName(const EngineOptions& options) {
  return options.served_model_name.empty() ? ModelNameFromPath(options.model)
                                           : options.served_model_name;
}

}  // namespace

std::string ReplicaId(const EngineOptions& options) {
  return absl::StrCat(ServedName(options), "-", HostName(), "-", getpid());
}

std::string ModelNameFromPath(const std::string& path) {
  const std::filesystem::path file(path);
  return file.extension() == ".gguf" ? file.stem().string() : file.filename().string();
}

absl::Status CheckModelPath(const std::string& path) {
  if (path.empty()) {
    return absl::InvalidArgumentError("MODEL (or --model): give the path of a GGUF file");
  }
  if (absl::StartsWith(path, "hf://")) {
    return absl::InvalidArgumentError(
        "MODEL: hf:// is not supported yet; give the path of a GGUF file");
  }
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    return absl::InvalidArgumentError(
        absl::StrCat("MODEL: ",
                     path,
                     " is a directory; model directories are not supported yet, give a GGUF file"));
  }
  return absl::OkStatus();
}

absl::Status CheckModelFile(const std::string& path) {
  const auto file = model::GgufFile::Open(path);
  if (!file.ok()) return InFile(path, file.status());
  const auto config = model::ModelConfigFromGguf(**file);
  return config.ok() ? absl::OkStatus() : InFile(path, config.status());
}

absl::Status CheckEngineOptions(const EngineOptions& options) {
  RETURN_IF_ERROR(CheckModelPath(options.model));
  if (options.max_num_batched_tokens < options.max_num_seqs) {
    return absl::InvalidArgumentError(absl::StrCat("--max-num-batched-tokens: ",
                                                   options.max_num_batched_tokens,
                                                   " is below --max-num-seqs ",
                                                   options.max_num_seqs));
  }
  return absl::OkStatus();
}

worker::TensorMode TensorModeOf(const EngineOptions& options) {
  return options.tensor_parallel_mode == "fast" ? worker::TensorMode::kFast
                                                : worker::TensorMode::kExact;
}

std::string NumericsOf(std::string_view model_digest,
                       const EngineOptions& options,
                       const DeviceChoice& device) {
  const bool sums = TensorModeOf(options) == worker::TensorMode::kFast;
  return worker::Numerics(model_digest,
                          kVersion,
                          device.compute,
                          device.kv_dtype,
                          sums ? options.tensor_parallel_size : 1,
                          device.kind);
}

int32_t ThreadsPerRank(const EngineOptions& options) {
  if (options.threads > 0) return options.threads;
  const int32_t ranks = options.tensor_parallel_size * options.pipeline_parallel_size;
  return worker::ThreadsPerReplica(worker::UsableCpus(),
                                   options.replicas_on_host * ranks / options.num_nodes);
}

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadedModel::Load(const EngineOptions& options,
                                                               const Settings& settings) {
  RETURN_IF_ERROR(CheckEngineOptions(options));
  RETURN_IF_ERROR(kernels::SetActiveCpuIsaFromEnvironment());
  auto loaded = std::unique_ptr<LoadedModel>(new LoadedModel());
  const int32_t num_ranks = options.tensor_parallel_size * options.pipeline_parallel_size;
  if (num_ranks > 1 && settings.group == nullptr) {
    return absl::InvalidArgumentError(
        "--tensor-parallel-size, --pipeline-parallel-size: only serve and worker have several "
        "ranks");
  }

  absl::StatusOr<std::unique_ptr<model::GgufFile>> opened = model::GgufFile::Open(options.model);
  if (!opened.ok()) return InFile(options.model, opened.status());
  const model::GgufFile& file = **opened;
  absl::StatusOr<model::ModelConfig> config = model::ModelConfigFromGguf(file);
  if (!config.ok()) return InFile(options.model, config.status());
  loaded->config_ = *config;
  absl::StatusOr<model::Vocabulary> vocabulary = model::VocabularyFromGguf(file);
  if (!vocabulary.ok()) return InFile(options.model, vocabulary.status());
  if (static_cast<int32_t>(vocabulary->tokens.size()) > config->vocab_size) {
    return InFile(options.model,
                  absl::InvalidArgumentError(absl::StrCat("gguf: tokenizer.ggml.tokens has ",
                                                          vocabulary->tokens.size(),
                                                          " entries, more than the ",
                                                          config->vocab_size,
                                                          " rows of the embedding")));
  }
  loaded->tokenizer_ = worker::ToProto(*vocabulary);
  absl::StatusOr<std::shared_ptr<const model::Tokenizer>> tokenizer =
      model::Tokenizer::Create(*std::move(vocabulary));
  if (!tokenizer.ok()) return InFile(options.model, tokenizer.status());

  const int32_t max_model_len =
      options.max_model_len == 0 ? config->max_context : options.max_model_len;
  if (max_model_len > config->max_context) {
    return absl::InvalidArgumentError(absl::StrCat("--max-model-len: ",
                                                   max_model_len,
                                                   " is over the model's context of ",
                                                   config->max_context));
  }
  loaded->num_threads_ = ThreadsPerRank(options);

  const std::string name = ServedName(options);
  if (!options.step_trace.empty()) {
    ASSIGN_OR_RETURN(loaded->trace_,
                     worker::StepTrace::Open({.path = options.step_trace,
                                              .process_name = absl::StrCat("paceline ", name),
                                              .num_threads = loaded->num_threads_},
                                             SteadyClock::Get()));
  }

  ASSIGN_OR_RETURN(const DeviceChoice device, ChooseDevice(options, /*local_rank=*/0));
  const int64_t block_bytes = worker::ModelShard::KvBytesPerBlock(*config, device.kv_dtype);
  int64_t kv_bytes = 0;
  std::string kv_reason;
  if (!options.kv_cache_memory.empty()) {
    kv_bytes = ParseBytes(options.kv_cache_memory);
    kv_reason = "as --kv-cache-memory says";
  }
  if (!options.kv_cache_memory.empty() && device.is_cpu) {
    ASSIGN_OR_RETURN(const worker::HostMemory memory, worker::ReadHostMemory());
    if (kv_bytes < block_bytes || kv_bytes / options.num_nodes > memory.TotalBytes()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "--kv-cache-memory: %d bytes; give at least one block of 32 tokens (%d) and "
          "at most this machine's memory (%d)%s",
          kv_bytes,
          block_bytes,
          memory.TotalBytes(),
          options.num_nodes == 1 ? "" : " for each node"));
    }
  } else if (!device.is_cpu) {
    kv_reason = absl::StrFormat("of a GPU's memory %g is used", options.gpu_memory_utilization);
  } else {
    // A node has its share of the replica.
    const int64_t nodes = options.num_nodes;
    ASSIGN_OR_RETURN(const worker::KvCacheSize size,
                     worker::SuggestKvCacheBytes({.model_bytes = file.file_bytes() / nodes,
                                                  .bytes_per_token = block_bytes / 32 / nodes,
                                                  .max_model_len = max_model_len,
                                                  .max_num_seqs = options.max_num_seqs,
                                                  .num_replicas = options.replicas_on_host}));
    kv_bytes = size.bytes * nodes;
    kv_reason = size.explanation;
  }

  const std::vector<int32_t> eos_ids = EndOfGenerationIds(**tokenizer);
  absl::StatusOr<std::unique_ptr<worker::ModelRunner>> runner = worker::ModelRunner::Create(
      file,
      *config,
      {.shard = {.load = device.load,
                 .device = device.place,
                 .compute = device.compute,
                 .kv_dtype = device.kv_dtype,
                 .tensor_mode = TensorModeOf(options),
                 .num_threads = loaded->num_threads_,
                 .pin_threads = options.replicas_on_host * num_ranks == 1,
                 .max_batch_tokens = options.max_num_batched_tokens,
                 .max_model_len = max_model_len,
                 .kv_cache_bytes = kv_bytes,
                 .trace = loaded->trace_.get(),
                 .group = settings.group,
                 .progress = settings.progress},
       .eos_token_ids = eos_ids});
  if (!runner.ok()) return InFile(options.model, runner.status());

  const std::string digest = file.Digest();
  const int32_t num_blocks = (*runner)->num_blocks();
  loaded->description_ = absl::StrFormat(
      "model %s (%s, %s, %.1f M parameters) on %s, context %d tokens, %s%d thread(s), %s kernels, "
      "weights %.0f MiB, KV cache %.0f MiB = %d blocks of 32 tokens (%s), %s, %s KV",
      name,
      config->architecture,
      config->quantization,
      CountParameters(file) / 1e6,
      device.description,
      max_model_len,
      num_ranks == 1 ? "" : absl::StrCat(num_ranks, " ranks of "),
      loaded->num_threads_,
      kernels::CpuIsaName(kernels::ActiveCpuIsa()),
      (*runner)->weight_bytes() / 1048576.0,
      (*runner)->kv_cache_bytes() / 1048576.0,
      num_blocks,
      kv_reason,
      !device.is_cpu                                  ? "16-bit activations"
      : device.compute == kernels::ComputeType::kInt8 ? "int8 activations"
                                                      : "float32 activations",
      worker::KvDtypeName(device.kv_dtype));

  v1::WorkerHello& hello = loaded->identity_.hello;
  hello.set_replica_id(ReplicaId(options));
  hello.set_epoch(UnixMicros());
  hello.set_protocol(worker::kAttachProtocol);
  hello.set_model_id(name);
  hello.set_model_digest(digest);
  hello.set_numerics(NumericsOf(digest, options, device));
  hello.set_tokenizer_digest(loaded->tokenizer_.digest());
  hello.set_block_size(kernels::kKvBlockSize);
  hello.set_num_blocks(num_blocks);
  hello.set_max_model_len(max_model_len);
  hello.set_max_num_seqs(options.max_num_seqs);
  hello.set_vocab_size(config->vocab_size);
  hello.set_tensor_parallel_size(options.tensor_parallel_size);
  hello.set_pipeline_parallel_size(options.pipeline_parallel_size);
  hello.set_architecture(config->architecture);
  hello.set_quantization(config->quantization);
  hello.set_num_parameters(CountParameters(file));
  hello.set_lease_ms(settings.lease_ms);
  hello.set_prefix_caching(options.enable_prefix_caching);

  const bool has_others = settings.group != nullptr && settings.group->seats != nullptr;
  loaded->metrics_ = std::make_unique<worker::WorkerMetrics>(
      worker::WorkerMetricsOptions{.model_name = name,
                                   .max_model_len = max_model_len,
                                   .block_size = kernels::kKvBlockSize,
                                   .num_blocks = num_blocks,
                                   .prefix_caching = options.enable_prefix_caching,
                                   .vllm_names = settings.vllm_metrics,
                                   .num_ranks = has_others ? settings.group->seats->size() : 1,
                                   .restarts = settings.rank_restarts,
                                   .has_gpu = !device.is_cpu});
  worker::WorkerMetrics* const metrics = loaded->metrics_.get();
  loaded->gpu_monitor_ = WatchGpu(device, [metrics](const worker::GpuReading& reading) {
    metrics->gpu_memory_used->Set(static_cast<double>(reading.memory_used_bytes));
    metrics->gpu_memory_total->Set(static_cast<double>(reading.memory_total_bytes));
    metrics->gpu_utilization->Set(reading.utilization);
  });
  ASSIGN_OR_RETURN(loaded->engine_,
                   worker::Engine::Create(
                       {.scheduler = {.max_num_seqs = options.max_num_seqs,
                                      .max_num_batched_tokens = options.max_num_batched_tokens,
                                      .max_model_len = max_model_len,
                                      .vocab_size = config->vocab_size,
                                      .eos_token_ids = eos_ids,
                                      .prefix_caching = options.enable_prefix_caching},
                        .model_digest = digest,
                        .beat_interval_ms = std::max(10, settings.lease_ms / 4),
                        .trace = loaded->trace_.get(),
                        .spans = settings.spans},
                       *std::move(runner),
                       *loaded->metrics_,
                       SteadyClock::Get()));
  return loaded;
}

}  // namespace paceline::cli
