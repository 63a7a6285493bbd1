#include "tests/fakes/early_model.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <future>
#include <type_traits>
#include <utility>
#include <vector>

#include "proto/support/status_macros.h"

namespace paceline::worker {
namespace {

std::atomic<int64_t> num_passes_ahead{0};

template <typename T>
std::vector<std::remove_const_t<T>> Copy(absl::Span<T> span) {
  return {span.begin(), span.end()};
}

class EarlyModel final : public CausalLm {
 public:
  explicit EarlyModel(std::unique_ptr<CausalLm> model) : model_(std::move(model)) {}
  ~EarlyModel() override { Await().IgnoreError(); }

  absl::StatusOr<int32_t> RoomForBlocks(const ForwardContext& context) override {
    return model_->RoomForBlocks(context);
  }
  absl::Status ReserveKvCache(int32_t num_blocks) override {
    return model_->ReserveKvCache(num_blocks);
  }
  absl::Status PrepareBlocks(const ForwardContext& context,
                             absl::Span<const int32_t> zero_blocks,
                             absl::Span<const kernels::BlockCopy> copies) override {
    Enqueue([this, context = Own(context), zero = Copy(zero_blocks), copy = Copy(copies)] {
      return model_->PrepareBlocks(context, zero, copy);
    });
    return absl::OkStatus();
  }
  kernels::MutableMatrix hidden(int64_t rows) override { return model_->hidden(rows); }

  // Its inputs may change as soon as it returns.
  absl::Status Forward(const ForwardContext& context, const ForwardInput& input) override {
    std::vector<std::vector<int32_t>> tables;
    for (const kernels::SequenceView& s : input.sequences) tables.push_back(Copy(s.block_table));
    Enqueue([this,
             context = Own(context),
             ids = Copy(input.token_ids),
             rows = Copy(input.token_rows),
             positions = Copy(input.positions),
             slots = Copy(input.slots),
             sequences = Copy(input.sequences),
             tables = std::move(tables)]() mutable {
      for (size_t i = 0; i < tables.size(); ++i) sequences[i].block_table = tables[i];
      if (!rows.empty()) ++num_passes_ahead;
      for (size_t i = 0; i < rows.size(); ++i) ids[i] = std::max(0, chosen_.at(rows[i]));
      return model_->Forward(context,
                             {.token_ids = ids,
                              .positions = positions,
                              .slots = slots,
                              .sequences = sequences,
                              .on_layer = [] {}});
    });
    return absl::OkStatus();
  }

  absl::Status ComputeLogits(const ForwardContext& context,
                             absl::Span<const int32_t> rows,
                             absl::Span<BestLogit> best,
                             absl::Span<const SampleJob> jobs,
                             absl::Span<SampleResult> results) override {
    RETURN_IF_ERROR(StartLogits(context, rows, static_cast<int32_t>(best.size()), jobs));
    return FinishLogits(best, jobs, results);
  }

  absl::Status StartLogits(const ForwardContext& context,
                           absl::Span<const int32_t> rows,
                           int32_t num_best,
                           absl::Span<const SampleJob> jobs) override {
    asked_ = Enqueue([this, context = Own(context), rows = Copy(rows), num_best, jobs] {
      best_.resize(num_best);
      results_.resize(jobs.size());
      RETURN_IF_ERROR(model_->ComputeLogits(context, rows, absl::MakeSpan(best_), {}, {}));
      const kernels::MutableMatrix logits = model_->logits(static_cast<int64_t>(rows.size()));
      chosen_.clear();
      for (const BestLogit& best : best_) chosen_.push_back(best.id);
      for (size_t i = 0; i < jobs.size(); ++i) {
        const auto row = static_cast<int64_t>(best_.size() + i);
        results_[i] = RunJob(absl::MakeSpan(logits.row(row), logits.cols), jobs[i]);
        chosen_.push_back(results_[i].token_id);
      }
      return absl::OkStatus();
    });
    return absl::OkStatus();
  }

  absl::Status FinishLogits(absl::Span<BestLogit> best,
                            absl::Span<const SampleJob> jobs,
                            absl::Span<SampleResult> results) override {
    RETURN_IF_ERROR(asked_.get());
    std::copy(best_.begin(), best_.end(), best.begin());
    std::move(results_.begin(), results_.end(), results.begin());
    return absl::OkStatus();
  }

  absl::Status Sample(const kernels::MutableMatrix& rows,
                      absl::Span<const SampleJob> jobs,
                      absl::Span<SampleResult> results) override {
    return model_->Sample(rows, jobs, results);
  }
  kernels::MutableMatrix logits(int64_t rows) override { return model_->logits(rows); }

  Sizes sizes() const override {
    Sizes sizes = model_->sizes();
    sizes.finds_best = sizes.returns_early = sizes.samples = true;
    return sizes;
  }

 private:
  // Without what belongs to the caller's thread.
  static ForwardContext Own(ForwardContext context) {
    context.trace = nullptr;
    context.track = nullptr;
    return context;
  }

  // On a thread of its own, after all that was enqueued before.
  std::shared_future<absl::Status> Enqueue(std::function<absl::Status()> work) {
    last_ = std::async(std::launch::async, [before = last_, work = std::move(work)] {
              if (before.valid()) RETURN_IF_ERROR(before.get());
              return work();
            }).share();
    return last_;
  }
  absl::Status Await() { return last_.valid() ? last_.get() : absl::OkStatus(); }

  const std::unique_ptr<CausalLm> model_;
  // Of what is enqueued.
  std::vector<BestLogit> best_;
  std::vector<SampleResult> results_;
  std::vector<int32_t> chosen_;  // a row of the last logits each

  std::shared_future<absl::Status> last_;
  std::shared_future<absl::Status> asked_;
};

}  // namespace

int64_t NumPassesAhead() { return num_passes_ahead; }

absl::StatusOr<std::unique_ptr<CausalLm>> LoadEarlyModel(const model::GgufFile& file,
                                                         const model::ModelConfig& config,
                                                         const ModelOptions& options,
                                                         WeightLoader& loader) {
  ASSIGN_OR_RETURN(std::unique_ptr<CausalLm> model, LoadModel(file, config, options, loader));
  return std::make_unique<EarlyModel>(std::move(model));
}

}  // namespace paceline::worker
