#include "worker/runner/model_shard.h"

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "proto/support/status_macros.h"
#include "worker/runner/rank_work.h"

namespace paceline::worker {
namespace {

absl::Span<std::byte> Bytes(const kernels::MutableMatrix& x) {
  return {reinterpret_cast<std::byte*>(x.data),
          static_cast<size_t>(x.rows * x.cols) * sizeof(float)};
}

// While one exists the rank works, and does not wait for others.
class AtWork {
 public:
  explicit AtWork(Pulse* pulse) : pulse_(pulse) {
    if (pulse_ != nullptr) pulse_->Working();
  }
  ~AtWork() {
    if (pulse_ != nullptr) pulse_->Waiting();
  }
  AtWork(const AtWork&) = delete;
  AtWork& operator=(const AtWork&) = delete;

 private:
  Pulse* const pulse_;
};

absl::Span<std::byte> BytesOf(ShardSetup& setup) {
  return {reinterpret_cast<std::byte*>(&setup), sizeof(setup)};
}

// Blocks are numbered alike on all ranks, so all have as many as the one with the fewest.
absl::Status TakeLeast(RankGroup& group, int32_t& num_blocks) {
  if (group.all == nullptr) return absl::OkStatus();
  std::vector<int32_t> all(group.all->size());
  std::vector<int64_t> ends;
  for (size_t i = 1; i <= all.size(); ++i)
    ends.push_back(static_cast<int64_t>(i * sizeof(int32_t)));
  all[group.all->rank()] = num_blocks;
  RETURN_IF_ERROR(group.all->AllGatherColumns(all.data(), 1, ends.back(), ends));
  num_blocks = *std::min_element(all.begin(), all.end());
  return absl::OkStatus();
}

}  // namespace

int64_t ModelShard::KvBytesPerBlock(const model::ModelConfig& config, kernels::DType kv_dtype) {
  return worker::KvBytesPerBlock(config, kv_dtype);
}

absl::StatusOr<std::unique_ptr<ModelShard>> ModelShard::Create(const model::GgufFile& file,
                                                               const model::ModelConfig& config,
                                                               const Options& options) {
  auto shard = std::unique_ptr<ModelShard>(new ModelShard(options));
  RankGroup* const group = options.group;
  if (group != nullptr && group->all != nullptr && group->is_leader()) {
    ShardSetup setup = {options.kv_cache_bytes, options.max_batch_tokens, options.max_model_len};
    RETURN_IF_ERROR(group->all->Broadcast(BytesOf(setup), /*root=*/0));
  }
  shard->pool_ = std::make_unique<kernels::ThreadPool>(options.num_threads, options.pin_threads);
  WeightLoader loader(file, options.compute, *shard->pool_, options.progress);
  ASSIGN_OR_RETURN(shard->model_,
                   options.load(file,
                                config,
                                {.compute = options.compute,
                                 .device = options.device,
                                 .kv_dtype = options.kv_dtype,
                                 .kv_cache_bytes = options.kv_cache_bytes,
                                 .max_batch_tokens = options.max_batch_tokens,
                                 .max_positions = options.max_model_len,
                                 .place = shard->place(),
                                 .tensor_mode = options.tensor_mode,
                                 .replica = group == nullptr ? nullptr : group->all.get(),
                                 .exchange_times =
                                     group == nullptr ? nullptr : &group->exchange_times},
                                loader));
  shard->best_.resize(shard->max_logit_rows());
  shard->results_.resize(shard->max_logit_rows());
  file.GiveBackPages();
  ASSIGN_OR_RETURN(shard->num_blocks_, shard->model_->RoomForBlocks(shard->context()));
  if (group != nullptr) RETURN_IF_ERROR(TakeLeast(*group, shard->num_blocks_));
  RETURN_IF_ERROR(shard->model_->ReserveKvCache(shard->num_blocks_));
  if (group != nullptr) RETURN_IF_ERROR(group->AwaitAll());
  return shard;
}

ForwardContext ModelShard::context() {
  return {.pool = *pool_,
          .compute = options_.compute,
          .attention_workspace = attention_workspace_,
          .trace = options_.trace,
          .track = track(),
          .tensor_group = options_.group == nullptr ? nullptr : options_.group->tensor.get()};
}

absl::Status ModelShard::PrepareBlocks(const StepPlan& plan) {
  return model_->PrepareBlocks(context(), plan.zero_blocks, plan.copies);
}

absl::Status ModelShard::Forward(const StepPlan& plan,
                                 const MicroBatch& batch,
                                 absl::FunctionRef<void()> on_layer) {
  const RankPlace at = place();
  const kernels::MutableMatrix hidden = model_->hidden(batch.num_rows);
  const bool moves_hidden = model_->sizes().moves_hidden;
  if (!at.is_first_stage() && !moves_hidden) {
    const TraceSpan span(track(), "receive", {{"rows", batch.num_rows}});
    RETURN_IF_ERROR(options_.group->all->Recv(
        Bytes(hidden), options_.group->RankOf(at.stage - 1, at.tensor_rank)));
  }
  {
    const TraceSpan span(track(), "forward", {{"rows", batch.num_rows}});
    const AtWork at_work(pulse());
    const auto rows = [&](const std::vector<int32_t>& values) {
      return absl::MakeConstSpan(values).subspan(batch.first_row, batch.num_rows);
    };
    RETURN_IF_ERROR(model_->Forward(
        context(),
        {.token_ids = rows(plan.token_ids),
         .token_rows = plan.token_rows,
         .positions = rows(plan.positions),
         .slots = rows(plan.slots),
         .sequences =
             absl::MakeConstSpan(plan.sequences).subspan(batch.first_sequence, batch.num_sequences),
         .on_layer = [&] {
           if (pulse() != nullptr) pulse()->Working();
           on_layer();
         }}));
  }
  if (at.is_last_stage() || moves_hidden) return absl::OkStatus();
  const TraceSpan span(track(), "send", {{"rows", batch.num_rows}});
  return options_.group->all->Send(Bytes(hidden),
                                   options_.group->RankOf(at.stage + 1, at.tensor_rank));
}

absl::StatusOr<ModelShard::LogitRows> ModelShard::Logits(const StepPlan& plan,
                                                         const MicroBatch& batch,
                                                         int32_t first,
                                                         int32_t count,
                                                         absl::Span<const SampleJob> jobs) {
  const RankPlace at = place();
  const kernels::MutableMatrix logits = model_->logits(count);
  const int32_t num_best = std::clamp(batch.num_best - first, 0, count);
  const absl::Span<BestLogit> best = absl::MakeSpan(best_).first(num_best);
  const absl::Span<std::byte> best_bytes(reinterpret_cast<std::byte*>(best.data()),
                                         best.size() * sizeof(BestLogit));
  const auto whole_rows = [&] { return Bytes(logits.Rows(num_best, count - num_best)); };
  const absl::Span<SampleResult> results = absl::MakeSpan(results_).first(jobs.size());
  const TraceSpan span(track(), "logits", {{"rows", count}});
  if (at.is_last_stage()) {
    {
      const AtWork at_work(pulse());
      RETURN_IF_ERROR(model_->ComputeLogits(
          context(),
          absl::MakeConstSpan(plan.logit_rows).subspan(batch.first_logit + first, count),
          best,
          jobs,
          results));
    }
    if (at.num_stages > 1 && at.tensor_rank == 0) {
      const int leader = options_.group->RankOf(0, 0);
      if (num_best > 0) RETURN_IF_ERROR(options_.group->all->Send(best_bytes, leader));
      if (num_best < count) RETURN_IF_ERROR(options_.group->all->Send(whole_rows(), leader));
    }
  } else if (options_.group->is_leader()) {
    const TraceSpan wait(track(), "receive", {{"rows", count}});
    const int last = options_.group->RankOf(at.num_stages - 1, 0);
    if (num_best > 0) RETURN_IF_ERROR(options_.group->all->Recv(best_bytes, last));
    if (num_best < count) RETURN_IF_ERROR(options_.group->all->Recv(whole_rows(), last));
    if (!jobs.empty()) {
      RETURN_IF_ERROR(model_->Sample(logits.Rows(num_best, count - num_best), jobs, results));
    }
  }
  return LogitRows{best, results, logits};
}

absl::Status ModelShard::StartLogits(const StepPlan& plan, absl::Span<const SampleJob> jobs) {
  const TraceSpan span(track(), "start logits");
  return model_->StartLogits(context(), plan.logit_rows, plan.micro_batches.front().num_best, jobs);
}

absl::StatusOr<ModelShard::LogitRows> ModelShard::FinishLogits(const StepPlan& plan,
                                                               absl::Span<const SampleJob> jobs) {
  const TraceSpan span(track(), "logits", {{"rows", static_cast<int64_t>(plan.logit_rows.size())}});
  const absl::Span<BestLogit> best =
      absl::MakeSpan(best_).first(plan.micro_batches.front().num_best);
  const absl::Span<SampleResult> results = absl::MakeSpan(results_).first(jobs.size());
  const AtWork at_work(pulse());
  RETURN_IF_ERROR(model_->FinishLogits(best, jobs, results));
  return LogitRows{best, results, {}};
}

namespace {

absl::Status RunStep(const StepPlan& plan, ModelShard& shard) {
  const int64_t rows = static_cast<int64_t>(plan.token_ids.size());
  const TraceSpan step(shard.track(), "step", {{"rows", rows}});
  RETURN_IF_ERROR(shard.PrepareBlocks(plan));
  for (const MicroBatch& batch : plan.micro_batches) {
    RETURN_IF_ERROR(shard.Forward(plan, batch, [] {}));
    const int32_t most = shard.max_logit_rows();
    for (int32_t first = 0; first < batch.num_logits; first += most) {
      const int32_t count = std::min(most, batch.num_logits - first);
      RETURN_IF_ERROR(shard.Logits(plan, batch, first, count, {}).status());
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RunRank(const model::GgufFile& file,
                     const model::ModelConfig& config,
                     ModelShard::Options options) {
  RankGroup& group = *options.group;
  ShardSetup setup;
  RETURN_IF_ERROR(group.all->Broadcast(BytesOf(setup), /*root=*/0));
  options.kv_cache_bytes = setup.kv_cache_bytes;
  options.max_batch_tokens = setup.max_batch_tokens;
  options.max_model_len = setup.max_model_len;
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelShard> shard,
                   ModelShard::Create(file, config, options));
  PlanReceiver receiver;
  StepPlan plan;
  RankWork work;
  for (;;) {
    {
      const TraceSpan span(shard->track(), "await plan");
      ASSIGN_OR_RETURN(const bool more, receiver.Receive(group, plan));
      if (!more) return absl::OkStatus();
    }
    {
      const WorkScope scope(&group, work);
      RETURN_IF_ERROR(RunStep(plan, *shard));
    }
    ++work.steps;
    PublishWork(group, work);
    if (options.trace != nullptr) options.trace->EndStep(/*keep=*/true);
  }
}

}  // namespace paceline::worker
