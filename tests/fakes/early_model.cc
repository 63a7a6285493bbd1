#include "tests/fakes/early_model.h"

#include <future>
#include <utility>
#include <vector>

#include "proto/support/status_macros.h"

namespace paceline::worker {
namespace {

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
    RETURN_IF_ERROR(Await());
    return model_->PrepareBlocks(context, zero_blocks, copies);
  }
  kernels::MutableMatrix hidden(int64_t rows) override { return model_->hidden(rows); }

  // Its inputs may change as soon as it returns.
  absl::Status Forward(const ForwardContext& context, const ForwardInput& input) override {
    RETURN_IF_ERROR(Await());
    const auto copy = [](auto span) { return std::vector(span.begin(), span.end()); };
    std::vector<std::vector<int32_t>> tables;
    for (const kernels::SequenceView& s : input.sequences) tables.push_back(copy(s.block_table));
    pass_ = std::async(std::launch::async,
                       [this,
                        context = ForwardContext(context),
                        ids = copy(input.token_ids),
                        positions = copy(input.positions),
                        slots = copy(input.slots),
                        sequences = copy(input.sequences),
                        tables = std::move(tables)]() mutable {
                         context.trace = nullptr;  // not this thread's
                         context.track = nullptr;
                         for (size_t i = 0; i < tables.size(); ++i) {
                           sequences[i].block_table = tables[i];
                         }
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
    RETURN_IF_ERROR(Await());
    RETURN_IF_ERROR(model_->ComputeLogits(context, rows, best, {}, {}));
    const kernels::MutableMatrix logits = model_->logits(static_cast<int64_t>(rows.size()));
    for (size_t i = 0; i < jobs.size(); ++i) {
      const auto row = static_cast<int64_t>(best.size() + i);
      results[i] = RunJob(absl::MakeSpan(logits.row(row), logits.cols), jobs[i]);
    }
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
  absl::Status Await() { return pass_.valid() ? pass_.get() : absl::OkStatus(); }

  const std::unique_ptr<CausalLm> model_;
  std::future<absl::Status> pass_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CausalLm>> LoadEarlyModel(const model::GgufFile& file,
                                                         const model::ModelConfig& config,
                                                         const ModelOptions& options,
                                                         WeightLoader& loader) {
  ASSIGN_OR_RETURN(std::unique_ptr<CausalLm> model, LoadModel(file, config, options, loader));
  return std::make_unique<EarlyModel>(std::move(model));
}

}  // namespace paceline::worker
