#include "worker/models/llama.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/embedding/embed.h"
#include "kernels/norm/rms_norm.h"
#include "proto/support/log.h"
#include "proto/support/status_macros.h"
#include "worker/layers/attention.h"
#include "worker/layers/gated_mlp.h"
#include "worker/layers/linear.h"
#include "worker/models/best_logit.h"
#include "worker/models/partition.h"

namespace paceline::worker {
namespace {

// A prompt whose every token is scored needs no more memory for it.
constexpr int32_t kMaxLogitRows = 32;

struct DecoderLayer {
  std::vector<float> attention_norm;  // [hidden]
  Attention attention;
  std::vector<float> mlp_norm;  // [hidden]
  GatedMlp mlp;
};

// Rows of float32 that the layers of one pass share.
class FloatRows {
 public:
  absl::Status Allocate(int64_t rows, int64_t cols) {
    cols_ = cols;
    ASSIGN_OR_RETURN(buffer_, kernels::AlignedBuffer::Allocate(rows * cols * sizeof(float)));
    return absl::OkStatus();
  }
  kernels::MutableMatrix view(int64_t rows) const {
    return kernels::MutableMatrix(reinterpret_cast<float*>(buffer_.data()), rows, cols_);
  }

 private:
  int64_t cols_ = 0;
  kernels::AlignedBuffer buffer_;
};

// How many parts m rows are dealt in. A part reads all weights, but no other thread's rows: it has
// no barriers inside and keeps its rows in its own cache. That pays once a part's arithmetic takes
// longer than reading the weights.
int64_t NumRowParts(int64_t m, int num_threads) {
  const int64_t least_rows = num_threads <= 4 ? 8 : 16;  // many threads have less bandwidth each
  if (num_threads == 1 || m < least_rows * num_threads) return 1;
  return m < 64 * num_threads ? num_threads : 2 * num_threads;  // finer parts even out delays
}

class Llama final : public CausalLm {
 public:
  static absl::StatusOr<std::unique_ptr<CausalLm>> Load(const model::GgufFile& file,
                                                        const model::ModelConfig& config,
                                                        const ModelOptions& options,
                                                        WeightLoader& loader) {
    RETURN_IF_ERROR(model::ValidateLlamaTensors(config, file));
    ASSIGN_OR_RETURN(Partition partition, PartitionModel(config, options.place));
    auto llama = std::unique_ptr<Llama>(new Llama(config, options, std::move(partition)));
    RETURN_IF_ERROR(llama->LoadWeights(loader));
    RETURN_IF_ERROR(llama->AllocateScratch());
    return llama;
  }

  absl::StatusOr<int32_t> RoomForBlocks(const ForwardContext&) override {
    return BlocksOf(config_, options_);
  }
  absl::Status ReserveKvCache(int32_t num_blocks) override;
  absl::Status PrepareBlocks(const ForwardContext& context,
                             absl::Span<const int32_t> zero_blocks,
                             absl::Span<const kernels::BlockCopy> copies) override;
  kernels::MutableMatrix hidden(int64_t rows) override { return hidden_.view(rows); }
  kernels::MutableMatrix logits(int64_t rows) override { return logits_.view(rows); }
  absl::Status Forward(const ForwardContext& context, const ForwardInput& input) override;
  absl::Status ComputeLogits(const ForwardContext& context,
                             absl::Span<const int32_t> rows,
                             absl::Span<BestLogit> best,
                             absl::Span<const SampleJob> jobs,
                             absl::Span<SampleResult> results) override;
  absl::Status Sample(const kernels::MutableMatrix&,
                      absl::Span<const SampleJob>,
                      absl::Span<SampleResult>) override {
    return absl::InternalError("rows of logits are sampled by who asked for them");
  }

  Sizes sizes() const override {
    return {.vocab_size = config_.vocab_size,
            .weight_bytes = weight_bytes_,
            .kv_cache_bytes = static_cast<int64_t>(kv_memory_.size()),
            .max_logit_rows = kMaxLogitRows};
  }

 private:
  Llama(const model::ModelConfig& config, const ModelOptions& options, Partition partition)
      : config_(config), options_(options), partition_(std::move(partition)) {}

  absl::Status LoadWeights(WeightLoader& loader);
  absl::Status LoadRope(WeightLoader& loader);
  absl::Status AllocateScratch();
  // One thread's part of a layer: its buffers and a pool of its own.
  struct Lane {
    kernels::ThreadPool serial{1, /*pin=*/false};
    // The buffer of the given form: layers whose formats want different ones do not share.
    kernels::Activations& Norm(kernels::ActivationForm form) {
      return form == kernels::ActivationForm::kInt8 ? norm_int8 : norm_float;
    }
    kernels::Activations& Inner(kernels::ActivationForm form) {
      return form == kernels::ActivationForm::kInt8 ? inner_int8 : inner_float;
    }
    kernels::Activations norm_int8{kernels::ActivationForm::kInt8};
    kernels::Activations norm_float{kernels::ActivationForm::kFloat32};
    kernels::Activations inner_int8{kernels::ActivationForm::kInt8};
    kernels::Activations inner_float{kernels::ActivationForm::kFloat32};
    kernels::Activations& Own(kernels::ActivationForm form) {
      return form == kernels::ActivationForm::kInt8 ? own_int8 : own_float;
    }
    kernels::Activations own_int8{kernels::ActivationForm::kInt8};
    kernels::Activations own_float{kernels::ActivationForm::kFloat32};
  };
  using PartBody =
      absl::FunctionRef<absl::Status(const ForwardContext&, kernels::WorkRange rows, Lane&)>;
  // Runs `body` for all m rows: by parts of the rows, one thread each, when they are many enough,
  // and else at once with the whole team.
  absl::Status ForEachPart(const ForwardContext& context, int64_t m, PartBody body);
  absl::Status Embed(const ForwardContext& context,
                     absl::Span<const int32_t> token_ids,
                     const kernels::MutableMatrix& hidden) const;
  // A layer up to its keys and values, and from its attention's output on.
  absl::Status BeginLayer(const ForwardContext& context,
                          const ForwardInput& input,
                          kernels::WorkRange rows,
                          int32_t layer,
                          Lane& lane);
  absl::Status FinishLayer(const ForwardContext& context,
                           kernels::WorkRange rows,
                           int32_t layer,
                           Lane& lane);

  const model::ModelConfig config_;
  const ModelOptions options_;
  const Partition partition_;
  int64_t weight_bytes_ = 0;

  std::optional<Linear> embedding_;  // first stage, when the head is a tensor of its own
  std::optional<Linear> head_;       // last stage; the first too when it is the embedding
  std::vector<float> output_norm_;   // [hidden]
  kernels::RopeTable rope_;
  std::vector<DecoderLayer> layers_;

  kernels::AlignedBuffer kv_memory_;
  kernels::KvCacheView kv_cache_;
  // Shared by all layers, [max_batch_tokens, …].
  FloatRows hidden_;
  FloatRows qkv_;
  FloatRows attention_output_;
  FloatRows gate_up_;
  FloatRows gathered_;                        // rows whose logits are asked for
  FloatRows logits_;                          // [kMaxLogitRows, vocab]
  std::vector<std::unique_ptr<Lane>> lanes_;  // one a thread
  std::vector<absl::Status> part_status_;
};

absl::Status Llama::LoadWeights(WeightLoader& loader) {
  RETURN_IF_ERROR(LoadRope(loader));
  const RankPlace& place = options_.place;
  const auto table = [&](const char* name) {
    return TensorRows(name, partition_.vocabulary.begin(), partition_.vocabulary.end());
  };
  // The head is the embedding table unless the file brings one of its own.
  if (config_.tied_embeddings) {
    if (place.is_first_stage() || place.is_last_stage()) {
      ASSIGN_OR_RETURN(head_, Linear::Load(loader, {table("token_embd")}, options_.compute));
    }
  } else {
    if (place.is_first_stage()) {
      ASSIGN_OR_RETURN(embedding_, Linear::Load(loader, {table("token_embd")}, options_.compute));
    }
    if (place.is_last_stage()) {
      ASSIGN_OR_RETURN(head_, Linear::Load(loader, {table("output")}, options_.compute));
    }
  }
  if (place.is_last_stage()) {
    ASSIGN_OR_RETURN(output_norm_, loader.Vector("output_norm.weight"));
  }
  AttentionSizes sizes = partition_.attention;
  sizes.rope_style = kernels::RopeStyle::kInterleaved;
  if (place.tensor_size > 1) sizes.mode = options_.tensor_mode;
  const int64_t num_layers = partition_.layers.end - partition_.layers.begin;
  layers_.reserve(num_layers);
  for (int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = absl::StrCat("blk.", partition_.layers.begin + i);
    DecoderLayer& layer = layers_.emplace_back();
    ASSIGN_OR_RETURN(layer.attention_norm,
                     loader.Vector(absl::StrCat(prefix, ".attn_norm.weight")));
    ASSIGN_OR_RETURN(layer.attention,
                     Attention::Load(loader, prefix, sizes, &rope_, options_.compute));
    ASSIGN_OR_RETURN(layer.mlp_norm, loader.Vector(absl::StrCat(prefix, ".ffn_norm.weight")));
    ASSIGN_OR_RETURN(
        layer.mlp,
        GatedMlp::Load(
            loader, prefix, partition_.inner, partition_.hidden, sizes.mode, options_.compute));
  }
  weight_bytes_ = loader.packed_bytes();
  return absl::OkStatus();
}

absl::Status Llama::LoadRope(WeightLoader& loader) {
  std::vector<float> factors;
  if (loader.Has("rope_freqs.weight")) {
    ASSIGN_OR_RETURN(factors, loader.Vector("rope_freqs.weight"));
  }
  ASSIGN_OR_RETURN(rope_,
                   kernels::RopeTable::Create({.rotary_dim = config_.rope_dim,
                                               .max_positions = options_.max_positions,
                                               .theta = config_.rope_theta,
                                               .position_scale = 1.0 / config_.rope_scaling_factor,
                                               .frequency_factors = factors}));
  return absl::OkStatus();
}

absl::Status Llama::AllocateScratch() {
  const int64_t rows = options_.max_batch_tokens;
  const AttentionSizes& sizes = partition_.attention;
  const int64_t heads = int64_t{sizes.num_heads} + 2 * int64_t{sizes.num_kv_heads};
  RETURN_IF_ERROR(hidden_.Allocate(rows, config_.hidden_size));
  RETURN_IF_ERROR(qkv_.Allocate(rows, heads * sizes.head_dim));
  RETURN_IF_ERROR(attention_output_.Allocate(rows, sizes.query.total()));
  RETURN_IF_ERROR(gate_up_.Allocate(rows, 2 * partition_.inner.size()));
  RETURN_IF_ERROR(gathered_.Allocate(kMaxLogitRows, config_.hidden_size));
  return logits_.Allocate(kMaxLogitRows, config_.vocab_size);
}

absl::Status Llama::ReserveKvCache(int32_t num_blocks) {
  const kernels::KvLayout layout{.num_layers = static_cast<int32_t>(layers_.size()),
                                 .num_kv_heads = partition_.attention.num_kv_heads,
                                 .head_dim = config_.head_dim,
                                 .dtype = options_.kv_dtype};
  RETURN_IF_ERROR(kernels::CheckLayout(layout));
  ASSIGN_OR_RETURN(kv_memory_,
                   kernels::AlignedBuffer::Allocate(num_blocks * layout.BytesPerBlock()));
  kv_cache_ = {.base = kv_memory_.data(), .num_blocks = num_blocks, .layout = layout};
  return absl::OkStatus();
}

absl::Status Llama::PrepareBlocks(const ForwardContext& context,
                                  absl::Span<const int32_t> zero_blocks,
                                  absl::Span<const kernels::BlockCopy> copies) {
  const int64_t block_bytes = kv_cache_.layout.BytesPerBlock();
  for (const int32_t block : zero_blocks) {
    std::memset(kv_cache_.base + block * block_bytes, 0, block_bytes);
  }
  if (copies.empty()) return absl::OkStatus();
  return kernels::CopyBlocks(context.pool, kv_cache_, copies);
}

absl::Status Llama::ForEachPart(const ForwardContext& context, int64_t m, PartBody body) {
  while (lanes_.size() < static_cast<size_t>(context.pool.num_threads())) {
    lanes_.push_back(std::make_unique<Lane>());
  }
  // Ranks exchange whole batches, from one thread.
  const int64_t num_parts =
      context.tensor_group == nullptr ? NumRowParts(m, context.pool.num_threads()) : 1;
  if (num_parts == 1) return body(context, {0, m}, *lanes_[0]);
  part_status_.assign(num_parts, absl::OkStatus());
  context.pool.ForEach(num_parts, [&](int thread, int64_t part) {
    TraceTrack* const track = context.trace == nullptr ? nullptr : context.trace->track(thread);
    const ForwardContext serial{.pool = lanes_[thread]->serial,
                                .compute = context.compute,
                                .attention_workspace = context.attention_workspace,
                                .track = track};
    part_status_[part] = body(serial, kernels::SplitWork(m, part, num_parts), *lanes_[thread]);
  });
  for (const absl::Status& status : part_status_) RETURN_IF_ERROR(status);
  return absl::OkStatus();
}

// A rank has some rows of the table: it leaves zeroes for the other tokens, and the ranks add up
// the bits, of which one of them has all.
absl::Status Llama::Embed(const ForwardContext& context,
                          absl::Span<const int32_t> token_ids,
                          const kernels::MutableMatrix& hidden) const {
  const kernels::PackedMatrix& table = (embedding_.has_value() ? *embedding_ : *head_).matrix();
  if (context.tensor_group == nullptr) {
    return kernels::Embed(context.pool, table, token_ids, hidden);
  }
  const Shares& shares = partition_.vocabulary;
  for (int64_t i = 0; i < hidden.rows; ++i) {
    const int32_t row = static_cast<int32_t>(token_ids[i] - shares.begin());
    if (row >= 0 && row < shares.size()) {
      RETURN_IF_ERROR(kernels::Embed(context.pool, table, {&row, 1}, hidden.Rows(i, 1)));
    } else {
      std::memset(hidden.row(i), 0, hidden.cols * sizeof(float));
    }
  }
  return context.tensor_group->AllReduceSum(
      absl::MakeSpan(reinterpret_cast<int32_t*>(hidden.data), hidden.rows * hidden.cols));
}

absl::Status Llama::BeginLayer(const ForwardContext& context,
                               const ForwardInput& input,
                               kernels::WorkRange rows,
                               int32_t layer,
                               Lane& lane) {
  const kernels::MutableMatrix hidden =
      hidden_.view(rows.end).Rows(rows.begin, rows.end - rows.begin);
  if (layer == 0 && options_.place.is_first_stage()) {
    RETURN_IF_ERROR(
        Embed(context, input.token_ids.subspan(rows.begin, rows.end - rows.begin), hidden));
  }
  const DecoderLayer& weights = layers_[layer];
  const TraceSpan span(context.track, "qkv", {{"layer", layer}, {"rows", rows.end - rows.begin}});
  kernels::Activations& x = lane.Norm(weights.attention.input_form());
  RETURN_IF_ERROR(
      kernels::RmsNorm(context.pool, hidden, weights.attention_norm, config_.rms_norm_eps, x));
  return weights.attention.Project(context, input, rows, layer, x, qkv_.view(rows.end));
}

absl::Status Llama::FinishLayer(const ForwardContext& context,
                                kernels::WorkRange rows,
                                int32_t layer,
                                Lane& lane) {
  const DecoderLayer& weights = layers_[layer];
  const int64_t count = rows.end - rows.begin;
  {
    const TraceSpan span(context.track, "output", {{"layer", layer}, {"rows", count}});
    RETURN_IF_ERROR(weights.attention.Output(context,
                                             rows,
                                             attention_output_.view(rows.end),
                                             lane.Inner(weights.attention.projected_form()),
                                             hidden_.view(rows.end)));
  }
  const TraceSpan span(context.track, "mlp", {{"layer", layer}, {"rows", count}});
  const kernels::MutableMatrix hidden = hidden_.view(rows.end).Rows(rows.begin, count);
  kernels::Activations& x = lane.Norm(weights.mlp.input_form());
  RETURN_IF_ERROR(
      kernels::RmsNorm(context.pool, hidden, weights.mlp_norm, config_.rms_norm_eps, x));
  const GatedMlpScratch scratch{.gate_up = gate_up_.view(rows.end).Rows(rows.begin, count),
                                .inner = lane.Inner(weights.mlp.inner_form()),
                                .own = lane.Own(weights.mlp.inner_form())};
  return weights.mlp.Forward(context, x, scratch, hidden);
}

absl::Status Llama::Forward(const ForwardContext& context, const ForwardInput& batch) {
  ForwardInput input = batch;
  input.kv_cache = kv_cache_;
  const int64_t m = static_cast<int64_t>(input.token_ids.size());
  if (m > options_.max_batch_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "forward: ", m, " rows exceed the ", options_.max_batch_tokens, " that were reserved"));
  }
  const auto num_layers = static_cast<int32_t>(layers_.size());
  // Between two attentions every row is on its own.
  for (int32_t i = 0; i < num_layers; ++i) {
    RETURN_IF_ERROR(ForEachPart(
        context, m, [&](const ForwardContext& part, kernels::WorkRange rows, Lane& lane) {
          if (i > 0) RETURN_IF_ERROR(FinishLayer(part, rows, i - 1, lane));
          return BeginLayer(part, input, rows, i, lane);
        }));
    {
      const TraceSpan span(context.track, "attention", {{"layer", i}, {"rows", m}});
      RETURN_IF_ERROR(
          layers_[i].attention.Attend(context, input, i, qkv_.view(m), attention_output_.view(m)));
    }
    input.on_layer();
  }
  return ForEachPart(
      context, m, [&](const ForwardContext& part, kernels::WorkRange rows, Lane& lane) {
        return FinishLayer(part, rows, num_layers - 1, lane);
      });
}

absl::Status Llama::ComputeLogits(const ForwardContext& context,
                                  absl::Span<const int32_t> rows,
                                  absl::Span<BestLogit> best,
                                  absl::Span<const SampleJob> jobs,
                                  absl::Span<SampleResult>) {
  PACELINE_CHECK(jobs.empty(), "a model on the CPU samples nothing");
  const int64_t m = static_cast<int64_t>(rows.size());
  const kernels::MutableMatrix logits = logits_.view(m);
  if (m > kMaxLogitRows) {
    return absl::InvalidArgumentError(
        absl::StrCat("logits: ", m, " rows exceed the ", kMaxLogitRows, " that were reserved"));
  }
  const kernels::MutableMatrix gathered = gathered_.view(m);
  RETURN_IF_ERROR(
      kernels::GatherRows(context.pool, hidden_.view(options_.max_batch_tokens), rows, gathered));
  kernels::Activations& head_input = lanes_[0]->Norm(head_->form());
  RETURN_IF_ERROR(
      kernels::RmsNorm(context.pool, gathered, output_norm_, config_.rms_norm_eps, head_input));
  const Shares& shares = partition_.vocabulary;
  RETURN_IF_ERROR(
      head_->Forward(context, head_input, /*accumulate=*/false, OwnColumns(logits, shares)));
  const int64_t num_best = static_cast<int64_t>(best.size());
  if (num_best > 0) {
    context.pool.ForEach(num_best, [&](int, int64_t i) {
      best[i] = BestOf({logits.row(i) + shares.begin(), static_cast<size_t>(shares.size())});
      best[i].id += static_cast<int32_t>(shares.begin());
    });
    RETURN_IF_ERROR(MergeBest(context.tensor_group, best));
  }
  if (num_best == m) return absl::OkStatus();
  return GatherColumns(context.tensor_group, shares, logits.Rows(num_best, m - num_best));
}

}  // namespace

absl::StatusOr<std::unique_ptr<CausalLm>> LoadLlama(const model::GgufFile& file,
                                                    const model::ModelConfig& config,
                                                    const ModelOptions& options,
                                                    WeightLoader& loader) {
  return Llama::Load(file, config, options, loader);
}

}  // namespace paceline::worker
