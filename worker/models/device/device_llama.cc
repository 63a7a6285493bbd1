#include "worker/models/device/device_llama.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/activation/silu_mul_device.h"
#include "kernels/attention/paged_decode_device.h"
#include "kernels/attention/paged_prefill_device.h"
#include "kernels/embedding/embed_device.h"
#include "kernels/kv_cache/kv_blocks_device.h"
#include "kernels/norm/rms_norm_device.h"
#include "kernels/rope/rope_write_kv_device.h"
#include "kernels/sampling/logits_device.h"
#include "proto/support/status_macros.h"
#include "worker/device/device_memory.h"
#include "worker/models/best_logit.h"
#include "worker/models/device/device_linear.h"
#include "worker/models/device/exchange.h"
#include "worker/models/device/step_inputs.h"
#include "worker/models/partition.h"

namespace paceline::worker {
namespace {

namespace device = kernels::device;
using kernels::DType;

// Scratch memory for so many chunks of keys and values at a time, unless one sequence has more.
constexpr int32_t kDecodeItems = 8192;

struct DecoderLayer {
  DeviceBuffer attention_norm;  // [hidden] f32
  DeviceLinear qkv;
  DeviceLinear output;
  DeviceBuffer mlp_norm;  // [hidden] f32
  DeviceLinear gate_up;
  DeviceLinear down;
};

// A table of embeddings as it is in the file.
struct EmbeddingTable {
  DeviceBuffer rows;
  kernels::WeightFormat format = kernels::WeightFormat::kF32;
  int32_t num_rows = 0;
};

class DeviceLlama final : public CausalLm {
 public:
  static absl::StatusOr<std::unique_ptr<CausalLm>> Load(const model::GgufFile& file,
                                                        const model::ModelConfig& config,
                                                        const ModelOptions& options,
                                                        WeightLoader& loader) {
    RETURN_IF_ERROR(model::ValidateLlamaTensors(config, file));
    RETURN_IF_ERROR(CheckSizes(config));
    ASSIGN_OR_RETURN(Partition partition, PartitionModel(config, options.place));
    RETURN_IF_ERROR(device::UseDevice(options.device.index));
    auto llama =
        std::unique_ptr<DeviceLlama>(new DeviceLlama(config, options, std::move(partition)));
    ASSIGN_OR_RETURN(llama->stream_owner_, DeviceStream::Create());
    llama->stream_ = llama->stream_owner_->get();
    RETURN_IF_ERROR(llama->LoadWeights(loader));
    RETURN_IF_ERROR(llama->AllocateScratch());
    return llama;
  }

  absl::StatusOr<int32_t> RoomForBlocks(const ForwardContext& context) override;
  absl::Status ReserveKvCache(int32_t num_blocks) override;
  absl::Status PrepareBlocks(const ForwardContext& context,
                             absl::Span<const int32_t> zero_blocks,
                             absl::Span<const kernels::BlockCopy> copies) override;
  kernels::MutableMatrix hidden(int64_t rows) override {
    return kernels::MutableMatrix(staged_hidden_.as<float>(), rows, config_.hidden_size);
  }
  kernels::MutableMatrix logits(int64_t rows) override {
    return kernels::MutableMatrix(staged_logits_.as<float>(), rows, config_.vocab_size);
  }
  absl::Status Forward(const ForwardContext& context, const ForwardInput& input) override;
  absl::Status ComputeLogits(const ForwardContext& context,
                             absl::Span<const int32_t> rows,
                             absl::Span<BestLogit> best) override;
  Sizes sizes() const override {
    return {.vocab_size = config_.vocab_size,
            .weight_bytes = use_.weights,
            .kv_cache_bytes = use_.kv_cache,
            .finds_best = true};
  }

 private:
  DeviceLlama(const model::ModelConfig& config, const ModelOptions& options, Partition partition)
      : config_(config), options_(options), partition_(std::move(partition)) {}

  static absl::Status CheckSizes(const model::ModelConfig& config);
  absl::Status LoadWeights(WeightLoader& loader);
  absl::Status LoadEnds(WeightLoader& loader);
  absl::Status LoadLayer(WeightLoader& loader, int64_t index);
  absl::Status LoadRope(WeightLoader& loader);
  absl::StatusOr<DeviceBuffer> LoadVector(WeightLoader& loader, const std::string& name);
  absl::StatusOr<DeviceLinear> LoadLinear(WeightLoader& loader,
                                          absl::Span<const TensorRows> layers) {
    return DeviceLinear::Load(loader, stream_, layers, dtype(), use_.weights);
  }
  absl::Status AllocateScratch();
  // A pass as large as there can be, which makes the device's runtime take all the memory that it
  // will want.
  absl::Status RunLargest(const ForwardContext& context);

  absl::Status Embed(const ForwardContext& context, const DeviceBatch& batch);
  absl::Status RunLayer(const ForwardContext& context, const DeviceBatch& batch, int32_t layer);
  absl::Status Attend(const DeviceBatch& batch, int32_t layer, void* out);
  // hidden += x W^T, on all ranks.
  absl::Status AddToHidden(const ForwardContext& context,
                           const DeviceLinear& linear,
                           const void* x,
                           bool is_first,  // rank, which adds what there was
                           int32_t rows);
  absl::Status Norm(float* x, const DeviceBuffer& weight, int32_t rows, void* out) const;
  // The best of the first rows of logits_, on their way to staged_best_.
  absl::Status FindBest(int32_t num_rows);
  // Rows of the last pass side by side, in gathered_ or where they are.
  absl::StatusOr<float*> GatherRows(absl::Span<const int32_t> rows);

  DType dtype() const { return options_.device.dtype; }
  int64_t q_size() const { return int64_t{heads().num_heads} * config_.head_dim; }
  int64_t kv_size() const { return int64_t{heads().num_kv_heads} * config_.head_dim; }
  int64_t qkv_size() const { return q_size() + 2 * kv_size(); }
  const AttentionSizes& heads() const { return partition_.attention; }
  bool adds_up() const { return heads().mode == TensorMode::kFast; }
  char* kv_layer(int32_t layer) const { return kv_cache_.as<char>() + layer * kv_layer_bytes_; }

  const model::ModelConfig config_;
  const ModelOptions options_;
  Partition partition_;
  DeviceMemoryUse use_;  // outlives the buffers
  std::unique_ptr<DeviceStream> stream_owner_;
  device::Stream stream_ = nullptr;

  std::optional<EmbeddingTable> embedding_;  // first stage
  std::optional<DeviceLinear> head_;         // last stage
  DeviceBuffer output_norm_;
  DeviceBuffer angles_;  // as RopeWriteKvArgs says
  std::vector<DecoderLayer> layers_;

  DeviceBuffer kv_cache_;  // [layer][block]
  int64_t kv_block_bytes_ = 0;
  int64_t kv_layer_bytes_ = 0;
  int32_t num_blocks_ = 0;

  std::unique_ptr<StepInputs> inputs_;
  std::unique_ptr<Exchange> exchange_;  // null: one rank has all of a layer
  // Shared by all layers, [max_batch_tokens, …].
  DeviceBuffer hidden_;     // f32
  DeviceBuffer norm_;       // 16 bits
  DeviceBuffer wide_;       // 16 bits: q, k and v, then gate and up
  DeviceBuffer own_;        // 16 bits: this rank's part of what follows
  DeviceBuffer projected_;  // 16 bits: attention's output, then the feed-forward block's inner
  DeviceBuffer partials_;   // f32, of decode attention
  DeviceBuffer gathered_;   // f32, [max_logit_rows, hidden]
  DeviceBuffer logits_;     // f32, [max_logit_rows, vocabulary of this rank]
  DeviceBuffer best_;       // [max_logit_rows]
  PinnedBuffer staged_hidden_;
  PinnedBuffer staged_logits_;
  PinnedBuffer staged_best_;
};

absl::Status DeviceLlama::CheckSizes(const model::ModelConfig& config) {
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
  const int64_t logit_rows = options_.max_logit_rows;
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
  if (place.tensor_size > 1) {
    RETURN_IF_ERROR(allocate(own_, rows * std::max(q_size(), partition_.inner.size()), dtype()));
    const int64_t row_bytes =
        std::max(hidden * int64_t{sizeof(float)},
                 std::max(heads().query.total(), inner) * kernels::DTypeSize(dtype()));
    ASSIGN_OR_RETURN(exchange_, Exchange::Create(stream_, rows * row_bytes));
  }
  const int32_t chunks =
      (options_.max_positions + kernels::kDeviceKvChunk - 1) / kernels::kDeviceKvChunk;
  const int32_t items = std::max(kDecodeItems, chunks * heads().num_kv_heads);
  RETURN_IF_ERROR(allocate(partials_,
                           kernels::DecodePartialFloats(
                               items, heads().num_heads, heads().num_kv_heads, config_.head_dim),
                           DType::kF32));
  ASSIGN_OR_RETURN(inputs_,
                   StepInputs::Create({.num_heads = heads().num_heads,
                                       .num_kv_heads = heads().num_kv_heads,
                                       .max_decode_items = items},
                                      use_.workspace));
  if (place.num_stages > 1) {
    ASSIGN_OR_RETURN(staged_hidden_, PinnedBuffer::Allocate(rows * hidden * sizeof(float)));
    std::memset(staged_hidden_.as<char>(), 0, staged_hidden_.bytes());
  }
  ASSIGN_OR_RETURN(
      staged_logits_,
      PinnedBuffer::Allocate(logit_rows * config_.vocab_size * int64_t{sizeof(float)}));
  return absl::OkStatus();
}

absl::Status DeviceLlama::ReserveKvCache(int32_t num_blocks) {
  kv_block_bytes_ = 2 * kv_size() * kernels::kKvBlockSize * kernels::DTypeSize(dtype());
  kv_layer_bytes_ = num_blocks * kv_block_bytes_;
  num_blocks_ = num_blocks;
  kv_cache_ = {};
  ASSIGN_OR_RETURN(kv_cache_,
                   DeviceBuffer::Allocate(static_cast<int64_t>(layers_.size()) * kv_layer_bytes_,
                                          use_.kv_cache));
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
  const int64_t per_block = kv_block_bytes_ * static_cast<int64_t>(layers_.size());
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
    zeros.resize(std::min(rows, options_.max_logit_rows));
    RETURN_IF_ERROR(ComputeLogits(context, zeros, {}));
  }
  return device::Synchronize(stream_);
}

absl::Status DeviceLlama::PrepareBlocks(const ForwardContext& context,
                                        absl::Span<const int32_t> zero_blocks,
                                        absl::Span<const kernels::BlockCopy> copies) {
  if (zero_blocks.empty() && copies.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(device::UseDevice(options_.device.index));
  const auto in_cache = [&](int32_t block) { return block >= 0 && block < num_blocks_; };
  const auto place = [&](int32_t block) { return kv_cache_.as<char>() + block * kv_block_bytes_; };
  const auto num_layers = static_cast<int64_t>(layers_.size());
  for (const int32_t block : zero_blocks) {
    if (!in_cache(block)) {
      return absl::InvalidArgumentError(absl::StrCat("KV block ", block, " is outside the cache"));
    }
    RETURN_IF_ERROR(
        device::ZeroRows(stream_, place(block), kv_layer_bytes_, kv_block_bytes_, num_layers));
  }
  for (const auto& [from, to] : copies) {
    if (!in_cache(from) || !in_cache(to)) {
      return absl::InvalidArgumentError(
          absl::StrCat("KV block ", in_cache(from) ? to : from, " is outside the cache"));
    }
    RETURN_IF_ERROR(device::CopyRows(stream_,
                                     place(to),
                                     kv_layer_bytes_,
                                     place(from),
                                     kv_layer_bytes_,
                                     kv_block_bytes_,
                                     num_layers));
  }
  return absl::OkStatus();
}

absl::Status DeviceLlama::Forward(const ForwardContext& context, const ForwardInput& input) {
  const auto rows = static_cast<int64_t>(input.token_ids.size());
  if (rows > options_.max_batch_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "forward: ", rows, " rows exceed the ", options_.max_batch_tokens, " that were reserved"));
  }
  RETURN_IF_ERROR(device::UseDevice(options_.device.index));
  ASSIGN_OR_RETURN(const DeviceBatch* const batch, inputs_->Upload(stream_, input));
  const int64_t hidden_bytes = rows * config_.hidden_size * static_cast<int64_t>(sizeof(float));
  if (options_.place.is_first_stage()) {
    RETURN_IF_ERROR(Embed(context, *batch));
  } else {
    RETURN_IF_ERROR(
        device::Copy(stream_, hidden_.data(), staged_hidden_.as<float>(), hidden_bytes));
    // The next batch's may come at any time.
    RETURN_IF_ERROR(device::Synchronize(stream_));
  }
  for (size_t i = 0; i < layers_.size(); ++i) {
    RETURN_IF_ERROR(RunLayer(context, *batch, static_cast<int32_t>(i)));
    input.on_layer();
  }
  if (options_.place.is_last_stage()) return absl::OkStatus();
  RETURN_IF_ERROR(device::Copy(stream_, staged_hidden_.as<float>(), hidden_.data(), hidden_bytes));
  return device::Synchronize(stream_);
}

absl::Status DeviceLlama::Embed(const ForwardContext& context, const DeviceBatch& batch) {
  const auto first = static_cast<int32_t>(partition_.vocabulary.begin());
  RETURN_IF_ERROR(kernels::DeviceEmbed(stream_,
                                       {.table = embedding_->rows.data(),
                                        .format = embedding_->format,
                                        .ids = batch.token_ids,
                                        .out = hidden_.as<float>(),
                                        .rows = batch.rows,
                                        .cols = config_.hidden_size,
                                        .first_id = first,
                                        .num_ids = embedding_->num_rows}));
  if (context.tensor_group == nullptr) return absl::OkStatus();
  // One rank has a row's bits, the others have zeros.
  return exchange_->Sum(
      *context.tensor_group, hidden_.as<int32_t>(), int64_t{batch.rows} * config_.hidden_size);
}

absl::Status DeviceLlama::RunLayer(const ForwardContext& context,
                                   const DeviceBatch& batch,
                                   int32_t index) {
  const DecoderLayer& layer = layers_[index];
  Communicator* const comm = context.tensor_group;
  const bool gathers = comm != nullptr && !adds_up();
  float* const hidden = hidden_.as<float>();
  void* const own = gathers ? own_.data() : projected_.data();

  RETURN_IF_ERROR(Norm(hidden, layer.attention_norm, batch.rows, norm_.data()));
  RETURN_IF_ERROR(layer.qkv.Forward(stream_,
                                    {.x = norm_.data(),
                                     .rows = batch.rows,
                                     .y = wide_.data(),
                                     .y_stride = qkv_size(),
                                     .y_dtype = dtype()}));
  RETURN_IF_ERROR(kernels::RopeWriteKv(stream_,
                                       {.qkv = wide_.data(),
                                        .angles = angles_.as<const float>(),
                                        .positions = batch.positions,
                                        .slots = batch.slots,
                                        .kv = kv_layer(index),
                                        .rows = batch.rows,
                                        .num_heads = heads().num_heads,
                                        .num_kv_heads = heads().num_kv_heads,
                                        .head_dim = config_.head_dim,
                                        .rotary_dim = config_.rope_dim,
                                        .page_size = kernels::kKvBlockSize,
                                        .style = kernels::RopeStyle::kInterleaved,
                                        .dtype = dtype()}));
  RETURN_IF_ERROR(Attend(batch, index, own));
  if (gathers) {
    RETURN_IF_ERROR(exchange_->GatherColumns(
        *comm, heads().query, batch.rows, kernels::DTypeSize(dtype()), own, projected_.data()));
  }
  RETURN_IF_ERROR(AddToHidden(
      context, layer.output, projected_.data(), heads().query.begin() == 0, batch.rows));

  RETURN_IF_ERROR(Norm(hidden, layer.mlp_norm, batch.rows, norm_.data()));
  const Shares& inner = partition_.inner;
  RETURN_IF_ERROR(layer.gate_up.Forward(stream_,
                                        {.x = norm_.data(),
                                         .rows = batch.rows,
                                         .y = wide_.data(),
                                         .y_stride = 2 * inner.size(),
                                         .y_dtype = dtype()}));
  RETURN_IF_ERROR(kernels::DeviceSiluMul(stream_,
                                         {.gate_up = wide_.data(),
                                          .out = own,
                                          .rows = batch.rows,
                                          .cols = inner.size(),
                                          .dtype = dtype()}));
  if (gathers) {
    RETURN_IF_ERROR(exchange_->GatherColumns(
        *comm, inner, batch.rows, kernels::DTypeSize(dtype()), own, projected_.data()));
  }
  return AddToHidden(context, layer.down, projected_.data(), inner.begin() == 0, batch.rows);
}

absl::Status DeviceLlama::Attend(const DeviceBatch& batch, int32_t layer, void* out) {
  const float scale = 1.0F / std::sqrt(static_cast<float>(config_.head_dim));
  const int64_t row_bytes = qkv_size() * kernels::DTypeSize(dtype());
  const int64_t out_bytes = q_size() * kernels::DTypeSize(dtype());
  for (const DecodePass& pass : batch.decodes) {
    RETURN_IF_ERROR(kernels::PagedDecode(
        stream_,
        {.q = wide_.as<char>() + pass.first * row_bytes,
         .q_stride = qkv_size(),
         .kv = kv_layer(layer),
         .page_table = batch.page_table + int64_t{pass.first} * batch.max_pages,
         .lengths = batch.lengths + pass.first,
         .items = pass.items,
         .first_item = pass.first_item,
         .partials = partials_.as<float>(),
         .out = static_cast<char*>(out) + pass.first * out_bytes,
         .num_sequences = pass.count,
         .num_items = pass.num_items,
         .max_pages = batch.max_pages,
         .page_size = kernels::kKvBlockSize,
         .num_heads = heads().num_heads,
         .num_kv_heads = heads().num_kv_heads,
         .head_dim = config_.head_dim,
         .scale = scale,
         .dtype = dtype()}));
  }
  if (batch.num_prefill_items == 0) return absl::OkStatus();
  return kernels::PagedPrefill(
      stream_,
      {.q = wide_.data(),
       .q_stride = qkv_size(),
       .kv = kv_layer(layer),
       .page_table = batch.page_table + int64_t{batch.first_prefill} * batch.max_pages,
       .sequences = batch.prefills,
       .items = batch.prefill_items,
       .out = out,
       .num_items = batch.num_prefill_items,
       .max_pages = batch.max_pages,
       .page_size = kernels::kKvBlockSize,
       .num_heads = heads().num_heads,
       .num_kv_heads = heads().num_kv_heads,
       .head_dim = config_.head_dim,
       .scale = scale,
       .dtype = dtype()});
}

absl::Status DeviceLlama::AddToHidden(const ForwardContext& context,
                                      const DeviceLinear& linear,
                                      const void* x,
                                      bool is_first,
                                      int32_t rows) {
  const Shares& shares = partition_.hidden;
  const int64_t begin = adds_up() ? 0 : shares.begin();
  RETURN_IF_ERROR(linear.Forward(stream_,
                                 {.x = x,
                                  .rows = rows,
                                  .y = hidden_.as<float>() + begin,
                                  .y_stride = config_.hidden_size,
                                  .y_dtype = DType::kF32,
                                  .accumulate = is_first || !adds_up()}));
  if (context.tensor_group == nullptr) return absl::OkStatus();
  if (adds_up()) {
    return exchange_->Sum(
        *context.tensor_group, hidden_.as<float>(), int64_t{rows} * config_.hidden_size);
  }
  return exchange_->GatherColumnsInPlace(
      *context.tensor_group, shares, rows, sizeof(float), hidden_.data());
}

absl::Status DeviceLlama::Norm(float* x,
                               const DeviceBuffer& weight,
                               int32_t rows,
                               void* out) const {
  return kernels::DeviceRmsNorm(stream_,
                                {.x = x,
                                 .residual = nullptr,
                                 .weight = weight.as<const float>(),
                                 .out = out,
                                 .rows = rows,
                                 .cols = config_.hidden_size,
                                 .eps = config_.rms_norm_eps,
                                 .dtype = dtype()});
}

absl::StatusOr<float*> DeviceLlama::GatherRows(absl::Span<const int32_t> rows) {
  const int64_t width = config_.hidden_size * static_cast<int64_t>(sizeof(float));
  for (const int32_t row : rows) {
    if (row < 0 || row >= options_.max_batch_tokens) {
      return absl::InvalidArgumentError(absl::StrCat("logits: there is no row ", row));
    }
  }
  // Runs of adjacent rows, of which a batch of decodes is one.
  for (size_t first = 0; first < rows.size();) {
    size_t end = first + 1;
    while (end < rows.size() && rows[end] == rows[end - 1] + 1) ++end;
    float* const from = hidden_.as<float>() + int64_t{rows[first]} * config_.hidden_size;
    if (end - first == rows.size()) return from;
    RETURN_IF_ERROR(device::Copy(stream_,
                                 gathered_.as<float>() + first * config_.hidden_size,
                                 from,
                                 static_cast<int64_t>(end - first) * width));
    first = end;
  }
  return gathered_.as<float>();
}

absl::Status DeviceLlama::ComputeLogits(const ForwardContext& context,
                                        absl::Span<const int32_t> rows,
                                        absl::Span<BestLogit> best) {
  const auto m = static_cast<int32_t>(rows.size());
  if (m > options_.max_logit_rows) {
    return absl::InvalidArgumentError(absl::StrCat(
        "logits: ", m, " rows exceed the ", options_.max_logit_rows, " that were reserved"));
  }
  RETURN_IF_ERROR(device::UseDevice(options_.device.index));
  const Shares& shares = partition_.vocabulary;
  ASSIGN_OR_RETURN(float* const from, GatherRows(rows));
  RETURN_IF_ERROR(Norm(from, output_norm_, m, norm_.data()));
  RETURN_IF_ERROR(head_->Forward(stream_,
                                 {.x = norm_.data(),
                                  .rows = m,
                                  .y = logits_.data(),
                                  .y_stride = shares.size(),
                                  .y_dtype = DType::kF32}));
  const auto num_best = static_cast<int32_t>(best.size());
  if (num_best > 0) RETURN_IF_ERROR(FindBest(num_best));
  const kernels::MutableMatrix logits = this->logits(m).Rows(num_best, m - num_best);
  constexpr int64_t kBytes = sizeof(float);
  RETURN_IF_ERROR(device::CopyRows(stream_,
                                   logits.data + shares.begin(),
                                   shares.total() * kBytes,
                                   logits_.as<float>() + num_best * shares.size(),
                                   shares.size() * kBytes,
                                   shares.size() * kBytes,
                                   m - num_best));
  RETURN_IF_ERROR(device::Synchronize(stream_));
  for (int32_t i = 0; i < num_best; ++i) {
    const kernels::DeviceBestLogit& found = staged_best_.as<const kernels::DeviceBestLogit>()[i];
    best[i] = {.id = found.id + static_cast<int32_t>(shares.begin()),
               .logit = found.logit,
               .is_finite = found.all_finite};
  }
  if (num_best > 0) RETURN_IF_ERROR(MergeBest(context.tensor_group, best));
  if (num_best == m) return absl::OkStatus();
  return worker::GatherColumns(context.tensor_group, shares, logits);
}

absl::Status DeviceLlama::FindBest(int32_t num_rows) {
  const auto vocabulary = static_cast<int32_t>(partition_.vocabulary.size());
  auto* const found = best_.as<kernels::DeviceBestLogit>();
  RETURN_IF_ERROR(kernels::DeviceArgMax(stream_,
                                        {.data = logits_.as<float>(),
                                         .stride = vocabulary,
                                         .num_rows = num_rows,
                                         .vocab_size = vocabulary},
                                        found));
  return device::Copy(stream_,
                      staged_best_.as<kernels::DeviceBestLogit>(),
                      found,
                      num_rows * int64_t{sizeof(kernels::DeviceBestLogit)});
}

}  // namespace

absl::StatusOr<std::unique_ptr<CausalLm>> LoadDeviceLlama(const model::GgufFile& file,
                                                          const model::ModelConfig& config,
                                                          const ModelOptions& options,
                                                          WeightLoader& loader) {
  return DeviceLlama::Load(file, config, options, loader);
}

}  // namespace paceline::worker
