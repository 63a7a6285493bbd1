// A Llama on a device, as its two sources see it: device_llama_load.cc takes memory, weights and
// the cache, device_llama.cc runs steps. Private to this folder. Made on one thread, then the
// engine thread only.
#ifndef PACELINE_WORKER_MODELS_DEVICE_DEVICE_LLAMA_CLASS_H_
#define PACELINE_WORKER_MODELS_DEVICE_DEVICE_LLAMA_CLASS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/kv_cache/kv_blocks_device.h"
#include "worker/device/device_memory.h"
#include "worker/models/causal_lm.h"
#include "worker/models/device/device_linear.h"
#include "worker/models/device/device_ranks.h"
#include "worker/models/device/device_sampler.h"
#include "worker/models/device/exchange.h"
#include "worker/models/device/idle_clock.h"
#include "worker/models/device/stage_link.h"
#include "worker/models/device/step_graphs.h"
#include "worker/models/device/step_inputs.h"
#include "worker/models/partition.h"
#include "worker/models/registry.h"

namespace paceline::worker {

class DeviceLlama final : public CausalLm {
 public:
  // LoadDeviceLlama's.
  static absl::StatusOr<std::unique_ptr<CausalLm>> Load(const model::GgufFile& file,
                                                        const model::ModelConfig& config,
                                                        const ModelOptions& options,
                                                        WeightLoader& loader);

  // A pass may be under way, or wait for a peer that is gone.
  ~DeviceLlama() override {
    ranks_ = nullptr;
    kernels::device::Synchronize(stream_).IgnoreError();
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
                             absl::Span<BestLogit> best,
                             absl::Span<const SampleJob> jobs,
                             absl::Span<SampleResult> results) override;
  absl::Status StartLogits(const ForwardContext& context,
                           absl::Span<const int32_t> rows,
                           int32_t num_best,
                           absl::Span<const SampleJob> jobs) override;
  absl::Status FinishLogits(absl::Span<BestLogit> best,
                            absl::Span<const SampleJob> jobs,
                            absl::Span<SampleResult> results) override;
  absl::Status Sample(const kernels::MutableMatrix& rows,
                      absl::Span<const SampleJob> jobs,
                      absl::Span<SampleResult> results) override;
  Sizes sizes() const override {
    return {.vocab_size = config_.vocab_size,
            .weight_bytes = use_.weights,
            .kv_cache_bytes = use_.kv_cache,
            .max_logit_rows = kMaxLogitRows,
            .finds_best = true,
            .moves_hidden = before_ != nullptr || after_ != nullptr,
            .returns_early = options_.place.num_ranks() == 1,
            .samples = is_leader()};
  }

 private:
  struct DecoderLayer {
    DeviceBuffer attention_norm;  // [hidden] f32
    DeviceLinear qkv;
    DeviceLinear output;
    DeviceBuffer mlp_norm;  // [hidden] f32
    DeviceLinear gate_up;
    DeviceLinear down;
  };

  static constexpr int32_t kMaxLogitRows = 256;

  // A table of embeddings as it is in the file.
  struct EmbeddingTable {
    DeviceBuffer rows;
    kernels::WeightFormat format = kernels::WeightFormat::kF32;
    int32_t num_rows = 0;
  };

  DeviceLlama(const model::ModelConfig& config, const ModelOptions& options, Partition partition)
      : config_(config), options_(options), partition_(std::move(partition)) {}

  static absl::Status CheckSizes(const model::ModelConfig& config, const ModelOptions& options);
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

  absl::Status RunLayers(const ForwardContext& context,
                         const DeviceBatch& batch,
                         absl::FunctionRef<void()> on_layer);
  absl::Status Embed(const ForwardContext& context, const DeviceBatch& batch);
  // From the norm before attention, in norm_, to that of the next layer, if there is one.
  absl::Status RunLayer(const ForwardContext& context, const DeviceBatch& batch, int32_t layer);
  absl::Status Attend(const DeviceBatch& batch, int32_t layer, void* out);
  // hidden += projected W^T, on all ranks, and norm_ is its norm.
  absl::Status AddToHidden(const ForwardContext& context,
                           const DeviceLinear& linear,
                           bool is_first,  // rank, which adds what there was
                           int32_t rows,
                           const DeviceBuffer* norm);  // weights; null: none
  // Until all that is enqueued is done.
  absl::Status Await() {
    return ranks_ == nullptr ? kernels::device::Synchronize(stream_) : ranks_->Await(stream_);
  }
  absl::Status Norm(float* x, const DeviceBuffer& weight, int32_t rows, void* out) const;
  // Tells the trace how long the device was idle before the last step that is over.
  absl::Status TraceIdle(const ForwardContext& context);
  // The best of the first rows of logits_, on their way to staged_best_.
  absl::Status FindBest(int32_t num_rows);
  void TakeBest(absl::Span<BestLogit> best) const;
  // Rows of logits_ over the whole vocabulary, there or from all ranks.
  absl::StatusOr<kernels::DeviceLogits> WholeRows(const ForwardContext& context,
                                                  int32_t first,
                                                  int32_t count);
  // Rows of the last pass side by side, in gathered_ or where they are.
  absl::StatusOr<float*> GatherRows(absl::Span<const int32_t> rows);

  kernels::DType dtype() const { return options_.device.dtype; }
  int64_t q_size() const { return int64_t{heads().num_heads} * config_.head_dim; }
  int64_t kv_size() const { return int64_t{heads().num_kv_heads} * config_.head_dim; }
  int64_t qkv_size() const { return q_size() + 2 * kv_size(); }
  const AttentionSizes& heads() const { return partition_.attention; }
  bool is_leader() const {
    return options_.place.is_first_stage() && options_.place.tensor_rank == 0;
  }
  bool adds_up() const { return heads().mode == TensorMode::kFast; }
  char* kv_layer(int32_t layer) const {
    return kv_cache_.as<char>() + layer * kv_blocks_.layer_bytes;
  }

  const model::ModelConfig config_;
  const ModelOptions options_;
  Partition partition_;
  DeviceMemoryUse use_;  // outlives the buffers
  std::unique_ptr<DeviceStream> stream_owner_;
  kernels::device::Stream stream_ = nullptr;
  std::unique_ptr<DeviceRanks> ranks_;  // null: one rank, or exchanges through the hosts

  std::optional<EmbeddingTable> embedding_;  // first stage
  std::optional<DeviceLinear> head_;         // last stage
  DeviceBuffer output_norm_;
  DeviceBuffer angles_;  // as RopeWriteKvArgs says
  std::vector<DecoderLayer> layers_;

  DeviceBuffer kv_cache_;  // [layer][block]
  kernels::DeviceKvBlocks kv_blocks_{};
  int32_t num_blocks_ = 0;

  std::unique_ptr<StepInputs> inputs_;
  StepGraphs graphs_;
  std::unique_ptr<StageLink> before_;  // null: the first stage, or hidden states go through hosts
  std::unique_ptr<StageLink> after_;   // the same of the last stage
  std::unique_ptr<ExchangeTimer> timer_;  // null: as exchange_, or the host has a part in it
  std::unique_ptr<Exchange> exchange_;    // null: one rank has all of a layer
  // Shared by all layers, [max_batch_tokens, …].
  DeviceBuffer hidden_;        // f32
  DeviceBuffer norm_;          // 16 bits
  DeviceBuffer wide_;          // 16 bits: q, k and v, then gate and up
  DeviceBuffer own_;           // 16 bits: this rank's part of what follows
  DeviceBuffer projected_;     // 16 bits: attention's output, then the feed-forward block's inner
  DeviceBuffer partials_;      // f32, of decode attention
  DeviceBuffer gathered_;      // f32, [kMaxLogitRows, hidden]
  DeviceBuffer logits_;        // f32, [kMaxLogitRows, vocabulary of this rank]
  DeviceBuffer whole_logits_;  // f32, [kMaxLogitRows, vocabulary], where they come from other ranks
  DeviceBuffer best_;          // [kMaxLogitRows]
  std::unique_ptr<DeviceSampler> sampler_;  // the leader's
  std::unique_ptr<DeviceEvent> answered_;   // what StartLogits asked for is there
  kernels::DeviceChosenTokens chosen_{};    // by what it enqueued
  std::unique_ptr<IdleClock> idle_;         // null without a trace
  PinnedBuffer staged_hidden_;
  PinnedBuffer staged_logits_;
  PinnedBuffer staged_best_;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_DEVICE_DEVICE_LLAMA_CLASS_H_
