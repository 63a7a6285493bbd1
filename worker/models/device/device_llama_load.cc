#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/attention/paged_decode_device.h"
#include "kernels/attention/paged_prefill_device.h"
#include "kernels/sampling/logits_device.h"
#include "proto/support/status_macros.h"
#include "worker/models/device/device_llama.h"
#include "worker/models/device/device_llama_class.h"

namespace paceline::worker {
namespace {

namespace device = kernels::device;
using kernels::DType;

// Scratch memory for so many chunks of keys and values at a time, unless one sequence has more.
constexpr int32_t kDecodeItems = 8192;

}  // namespace

absl::StatusOr<std::unique_ptr<CausalLm>> DeviceLlama::Load(const model::GgufFile& file,
                                                            const model::ModelConfig& config,
                                                            const ModelOptions& options,
                                                            WeightLoader& loader) {
  RETURN_IF_ERROR(model::ValidateLlamaTensors(config, file));
  RETURN_IF_ERROR(CheckSizes(config, options));
  ASSIGN_OR_RETURN(Partition partition, PartitionModel(config, options.place));
  RETURN_IF_ERROR(device::UseDevice(options.device.index));
  auto llama = std::unique_ptr<DeviceLlama>(new DeviceLlama(config, options, std::move(partition)));
  ASSIGN_OR_RETURN(llama->stream_owner_, DeviceStream::Create());
  llama->stream_ = llama->stream_owner_->get();
  if (options.replica != nullptr) {
    ASSIGN_OR_RETURN(
        llama->ranks_,
        DeviceRanks::Form(llama->stream_, options.device, options.place, *options.replica));
  }
  RETURN_IF_ERROR(llama->LoadWeights(loader));
  RETURN_IF_ERROR(llama->AllocateScratch());
  return llama;
}

absl::Status DeviceLlama::CheckSizes(const model::ModelConfig& config,
                                     const ModelOptions& options) {
  constexpr int32_t kHeadDims[] = {64, 80, 96, 128, 256};
  if (std::count(std::begin(kHeadDims), std::end(kHeadDims), config.head_dim) == 0) {
    return absl::UnimplementedError(absl::StrCat("heads of ",
                                                 config.head_dim,
                                                 " have no attention kernel for GPUs (64, 80, 96, "
                                                 "128 and 256 have); use --device cpu"));
  }
  if (config.num_heads / config.num_kv_heads > kernels::kMaxQueryHeadsPerKv) {
    return absl::UnimplementedError(absl::StrCat(config.num_heads / config.num_kv_heads,
                                                 " query heads to a KV head are more than the "
                                                 "kernels for GPUs take (",
                                                 kernels::kMaxQueryHeadsPerKv,
                                                 "); use --device cpu"));
  }
  if (config.hidden_size % kernels::kBlockK != 0 ||
      config.intermediate_size % kernels::kBlockK != 0) {
    return absl::UnimplementedError(
        "hidden sizes that are no multiples of 32 have no kernels for GPUs; use --device cpu");
  }
  if (options.kv_dtype != options.device.dtype && kernels::DTypeSize(options.kv_dtype) != 1) {
    return absl::UnimplementedError(
        "a KV cache of another 16-bit type than the activations' has no kernels for GPUs");
  }
  if (options.device.wgmma_prefill) {
    return kernels::CheckPrefillWgmma(config.head_dim, options.device.dtype, options.kv_dtype);
  }
  return absl::OkStatus();
}

absl::StatusOr<DeviceBuffer> DeviceLlama::LoadVector(WeightLoader& loader,
                                                     const std::string& name) {
  ASSIGN_OR_RETURN(const std::vector<float> values, loader.Vector(name));
  return Upload(
      stream_, values.data(), static_cast<int64_t>(values.size() * sizeof(float)), use_.weights);
}

absl::Status DeviceLlama::LoadWeights(WeightLoader& loader) {
  if (options_.place.tensor_size > 1) partition_.attention.mode = options_.tensor_mode;
  RETURN_IF_ERROR(LoadRope(loader));
  RETURN_IF_ERROR(LoadEnds(loader));
  for (int64_t i = partition_.layers.begin; i < partition_.layers.end; ++i) {
    RETURN_IF_ERROR(LoadLayer(loader, i));
  }
  return absl::OkStatus();
}

// The embedding stays as it is in the file; the head is packed for the matmul even when it is the
// same tensor.
absl::Status DeviceLlama::LoadEnds(WeightLoader& loader) {
  const Shares& vocabulary = partition_.vocabulary;
  const auto table = [&](const char* name) {
    return TensorRows(name, vocabulary.begin(), vocabulary.end());
  };
  if (options_.place.is_first_stage()) {
    ASSIGN_OR_RETURN(const MatrixRows rows, loader.Sources({table("token_embd.weight")}));
    embedding_.emplace();
    embedding_->format = rows.format;
    embedding_->num_rows = static_cast<int32_t>(rows.num_rows);
    ASSIGN_OR_RETURN(
        embedding_->rows,
        Upload(stream_, rows.sources[0].data, rows.num_rows * rows.row_bytes, use_.weights));
  }
  if (options_.place.is_last_stage()) {
    const char* const name = config_.tied_embeddings ? "token_embd" : "output";
    ASSIGN_OR_RETURN(head_, LoadLinear(loader, {table(name)}));
    ASSIGN_OR_RETURN(output_norm_, LoadVector(loader, "output_norm.weight"));
  }
  return absl::OkStatus();
}

absl::Status DeviceLlama::LoadLayer(WeightLoader& loader, int64_t index) {
  const std::string prefix = absl::StrCat("blk.", index);
  const auto rows = [&](const char* name, int64_t begin, int64_t size) {
    return TensorRows(absl::StrCat(prefix, name), begin, begin + size);
  };
  // To the hidden states: this rank's outputs, or the inputs that it has.
  const auto back = [&](const char* name, const Shares& inputs) {
    TensorRows part(absl::StrCat(prefix, name));
    if (adds_up()) {
      part.first_column = inputs.begin();
      part.end_column = inputs.end();
    } else {
      part.begin = partition_.hidden.begin();
      part.end = partition_.hidden.end();
    }
    return part;
  };
  const int64_t q = int64_t{heads().first_head} * config_.head_dim;
  const int64_t kv = int64_t{heads().first_kv_head} * config_.head_dim;
  const Shares& inner = partition_.inner;
  DecoderLayer& layer = layers_.emplace_back();
  ASSIGN_OR_RETURN(layer.attention_norm,
                   LoadVector(loader, absl::StrCat(prefix, ".attn_norm.weight")));
  ASSIGN_OR_RETURN(layer.qkv,
                   LoadLinear(loader,
                              {rows(".attn_q", q, q_size()),
                               rows(".attn_k", kv, kv_size()),
                               rows(".attn_v", kv, kv_size())}));
  ASSIGN_OR_RETURN(layer.output, LoadLinear(loader, {back(".attn_output", heads().query)}));
  ASSIGN_OR_RETURN(layer.mlp_norm, LoadVector(loader, absl::StrCat(prefix, ".ffn_norm.weight")));
  ASSIGN_OR_RETURN(layer.gate_up,
                   LoadLinear(loader,
                              {rows(".ffn_gate", inner.begin(), inner.size()),
                               rows(".ffn_up", inner.begin(), inner.size())}));
  ASSIGN_OR_RETURN(layer.down, LoadLinear(loader, {back(".ffn_down", inner)}));
  return absl::OkStatus();
}

absl::Status DeviceLlama::LoadRope(WeightLoader& loader) {
  std::vector<float> factors;
  if (loader.Has("rope_freqs.weight")) {
    ASSIGN_OR_RETURN(factors, loader.Vector("rope_freqs.weight"));
  }
  ASSIGN_OR_RETURN(const kernels::RopeTable table,
                   kernels::RopeTable::Create({.rotary_dim = config_.rope_dim,
                                               .max_positions = options_.max_positions,
                                               .theta = config_.rope_theta,
                                               .position_scale = 1.0 / config_.rope_scaling_factor,
                                               .frequency_factors = factors}));
  const int64_t bytes = int64_t{options_.max_positions} * config_.rope_dim * sizeof(float);
  ASSIGN_OR_RETURN(angles_, Upload(stream_, table.cos_row(0), bytes, use_.weights));
  return absl::OkStatus();
}

absl::Status DeviceLlama::AllocateScratch() {
  const int64_t rows = options_.max_batch_tokens;
  const int64_t hidden = config_.hidden_size;
  const int64_t logit_rows = kMaxLogitRows;
  const int64_t inner = partition_.inner.total();
  const RankPlace& place = options_.place;
  const auto allocate = [&](DeviceBuffer& buffer, int64_t elements, DType type) -> absl::Status {
    ASSIGN_OR_RETURN(buffer,
                     DeviceBuffer::Allocate(elements * kernels::DTypeSize(type), use_.workspace));
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(allocate(hidden_, rows * hidden, DType::kF32));
  RETURN_IF_ERROR(allocate(norm_, std::max(rows, logit_rows) * hidden, dtype()));
  RETURN_IF_ERROR(
      allocate(wide_, rows * std::max(qkv_size(), 2 * partition_.inner.size()), dtype()));
  const int64_t projected = rows * std::max(heads().query.total(), inner);
  RETURN_IF_ERROR(allocate(projected_, projected, dtype()));
  RETURN_IF_ERROR(allocate(gathered_, logit_rows * hidden, DType::kF32));
  RETURN_IF_ERROR(allocate(logits_, logit_rows * partition_.vocabulary.size(), DType::kF32));
  const int64_t best_bytes = logit_rows * int64_t{sizeof(kernels::DeviceBestLogit)};
  ASSIGN_OR_RETURN(best_, DeviceBuffer::Allocate(best_bytes, use_.workspace));
  ASSIGN_OR_RETURN(staged_best_, PinnedBuffer::Allocate(best_bytes));
  // Graphs hold no exchange that the host, or NCCL, has a part in.
  int64_t filled_rows = rows;
  if (place.tensor_size > 1) {
    RETURN_IF_ERROR(allocate(own_, rows * std::max(q_size(), partition_.inner.size()), dtype()));
    const int64_t small = kernels::DTypeSize(dtype());
    constexpr int64_t kLarge = sizeof(float);
    const int64_t part = adds_up() ? hidden : partition_.hidden.largest();
    const int64_t narrow = std::max(heads().query.largest(), partition_.inner.largest()) * small;
    Exchange::Options options{
        .matrix_bytes =
            rows * std::max(hidden * kLarge, std::max(heads().query.total(), inner) * small),
        .piece_bytes = rows * std::max(part * kLarge, narrow),
        .nccl = ranks_ == nullptr ? nullptr : ranks_->tensor(),
        .peers = ranks_ == nullptr ? nullptr : ranks_->peers()};
    filled_rows = options.peers == nullptr
                      ? 0
                      : options.peers->piece_bytes() / std::max(hidden * kLarge, narrow);
    if (place.is_last_stage()) {
      const Shares& vocabulary = partition_.vocabulary;
      options.matrix_bytes =
          std::max(options.matrix_bytes, logit_rows * vocabulary.total() * kLarge);
      options.piece_bytes =
          std::max(options.piece_bytes, logit_rows * vocabulary.largest() * kLarge);
    }
    if (options.nccl != nullptr && options_.exchange_times != nullptr) {
      timer_ = std::make_unique<ExchangeTimer>(
          stream_, options_.device.timed_passes, *options_.exchange_times);
      options.timer = timer_.get();
    }
    ASSIGN_OR_RETURN(exchange_, Exchange::Create(stream_, options, use_.workspace));
  }
  const int32_t chunks =
      (options_.max_positions + kernels::kDeviceKvChunk - 1) / kernels::kDeviceKvChunk;
  const int32_t items = std::max(kDecodeItems, chunks * config_.num_kv_heads);
  RETURN_IF_ERROR(allocate(partials_,
                           kernels::DecodePartialFloats(
                               items, heads().num_heads, heads().num_kv_heads, config_.head_dim),
                           DType::kF32));
  ASSIGN_OR_RETURN(
      inputs_,
      StepInputs::Create(
          {.num_heads = heads().num_heads,
           .num_kv_heads = heads().num_kv_heads,
           .prefill_vectors = options_.device.wgmma_prefill ? kernels::kWgmmaPrefillVectors
                                                            : kernels::kPrefillVectors,
           .all_kv_heads = config_.num_kv_heads,
           .max_decode_items = items,
           .max_filled_rows = static_cast<int32_t>(std::min(rows, filled_rows))},
          use_.workspace));
  if (place.num_ranks() > 1 && (place.is_last_stage() || is_leader())) {
    RETURN_IF_ERROR(allocate(whole_logits_, logit_rows * config_.vocab_size, DType::kF32));
  }
  // The last stage sends the leader logits.
  if (place.num_stages > 1 && place.tensor_rank == 0 && (place.is_last_stage() || is_leader())) {
    ASSIGN_OR_RETURN(
        staged_logits_,
        PinnedBuffer::Allocate(logit_rows * config_.vocab_size * int64_t{sizeof(float)}));
  }
  const int64_t hidden_bytes = rows * hidden * int64_t{sizeof(float)};
  if (ranks_ != nullptr && ranks_->before() != nullptr) {
    ASSIGN_OR_RETURN(before_, StageLink::Create(*ranks_->before(), hidden_bytes, use_.workspace));
  }
  if (ranks_ != nullptr && ranks_->after() != nullptr) {
    ASSIGN_OR_RETURN(after_, StageLink::Create(*ranks_->after(), hidden_bytes, use_.workspace));
  }
  if (place.num_stages > 1 && ranks_ == nullptr) {
    ASSIGN_OR_RETURN(staged_hidden_, PinnedBuffer::Allocate(hidden_bytes));
    std::memset(staged_hidden_.as<char>(), 0, staged_hidden_.bytes());
  }
  ASSIGN_OR_RETURN(answered_, DeviceEvent::Create());
  if (is_leader()) {
    ASSIGN_OR_RETURN(sampler_, DeviceSampler::Create(kMaxLogitRows, use_.workspace));
  }
  return absl::OkStatus();
}

absl::Status DeviceLlama::ReserveKvCache(int32_t num_blocks) {
  const kernels::KvLayout layer{.num_layers = 1,
                                .num_kv_heads = heads().num_kv_heads,
                                .head_dim = config_.head_dim,
                                .dtype = options_.kv_dtype};
  const auto num_layers = static_cast<int32_t>(layers_.size());
  graphs_.Clear();
  kv_cache_ = {};
  ASSIGN_OR_RETURN(
      kv_cache_,
      DeviceBuffer::Allocate(num_layers * num_blocks * layer.BytesPerBlock(), use_.kv_cache));
  num_blocks_ = num_blocks;
  kv_blocks_ = {.base = kv_cache_.data(),
                .layer_bytes = num_blocks * layer.BytesPerBlock(),
                .block_bytes = layer.BytesPerBlock(),
                .num_layers = num_layers};
  return absl::OkStatus();
}

absl::StatusOr<int32_t> DeviceLlama::RoomForBlocks(const ForwardContext& context) {
  if (options_.kv_cache_bytes > 0) return BlocksOf(config_, options_);
  RETURN_IF_ERROR(device::UseDevice(options_.device.index));
  RETURN_IF_ERROR(RunLargest(context));
  kv_cache_ = {};
  ASSIGN_OR_RETURN(const device::MemoryInfo memory, device::ReadMemory());
  const double wanted =
      options_.device.memory_utilization * static_cast<double>(memory.total_bytes);
  const int64_t used = memory.total_bytes - memory.free_bytes;
  const int64_t room = static_cast<int64_t>(wanted) - used;
  const int64_t per_block = kv_blocks_.block_bytes * kv_blocks_.num_layers;
  const int64_t one_sequence =
      (int64_t{options_.max_positions} + kernels::kKvBlockSize - 1) / kernels::kKvBlockSize;
  if (room < one_sequence * per_block) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "GPU memory: %.0f of %.0f MiB are in use (weights %.0f, workspace %.0f), which leaves too "
        "little for the KV cache of one sequence of %d tokens (%.0f MiB) under "
        "--gpu-memory-utilization %g; lower --max-model-len or --max-num-batched-tokens",
        used / 1048576.0,
        memory.total_bytes / 1048576.0,
        use_.weights / 1048576.0,
        use_.workspace / 1048576.0,
        options_.max_positions,
        one_sequence * per_block / 1048576.0,
        options_.device.memory_utilization));
  }
  ModelOptions sized = options_;
  sized.kv_cache_bytes = room / per_block * KvBytesPerBlock(config_, options_.kv_dtype);
  return BlocksOf(config_, sized);
}

absl::Status DeviceLlama::RunLargest(const ForwardContext& context) {
  RETURN_IF_ERROR(ReserveKvCache(1));
  const int32_t rows = options_.max_batch_tokens;
  const std::vector<int32_t> table = {0};
  std::vector<int32_t> zeros(rows, 0);
  std::vector<kernels::SequenceView> sequences;
  std::vector<int32_t> positions;
  for (int32_t row = 0; row < rows; ++row) {
    const int32_t position = row % std::min(kernels::kKvBlockSize, options_.max_positions);
    positions.push_back(position);
    if (position == 0) sequences.push_back({.first_row = row, .block_table = table});
    ++sequences.back().num_rows;
  }
  RETURN_IF_ERROR(Forward(context,
                          {.token_ids = zeros,
                           .positions = positions,
                           .slots = positions,
                           .sequences = sequences,
                           .on_layer = [] {}}));
  if (options_.place.is_last_stage()) {
    zeros.resize(std::min(rows, kMaxLogitRows));
    RETURN_IF_ERROR(ComputeLogits(context, zeros, {}, {}, {}));
  }
  return Await();
}

absl::Status DeviceLlama::PrepareBlocks(const ForwardContext& context,
                                        absl::Span<const int32_t> zero_blocks,
                                        absl::Span<const kernels::BlockCopy> copies) {
  if (zero_blocks.empty() && copies.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(device::UseDevice(options_.device.index));
  const auto check = [&](int32_t block) -> absl::Status {
    if (block >= 0 && block < num_blocks_) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("KV block ", block, " is outside the cache"));
  };
  for (const int32_t block : zero_blocks) RETURN_IF_ERROR(check(block));
  for (const auto& [from, to] : copies) {
    RETURN_IF_ERROR(check(from));
    RETURN_IF_ERROR(check(to));
  }
  RETURN_IF_ERROR(kernels::DeviceZeroBlocks(stream_, kv_blocks_, zero_blocks));
  return kernels::DeviceCopyBlocks(stream_, kv_blocks_, copies);
}

absl::StatusOr<std::unique_ptr<CausalLm>> LoadDeviceLlama(const model::GgufFile& file,
                                                          const model::ModelConfig& config,
                                                          const ModelOptions& options,
                                                          WeightLoader& loader) {
  return DeviceLlama::Load(file, config, options, loader);
}

}  // namespace paceline::worker
