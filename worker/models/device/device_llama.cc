#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/activation/silu_mul_device.h"
#include "kernels/attention/paged_decode_device.h"
#include "kernels/attention/paged_prefill_device.h"
#include "kernels/embedding/embed_device.h"
#include "kernels/norm/rms_norm_device.h"
#include "kernels/rope/rope_write_kv_device.h"
#include "kernels/sampling/logits_device.h"
#include "proto/support/status_macros.h"
#include "worker/models/best_logit.h"
#include "worker/models/device/device_llama_class.h"

namespace paceline::worker {

namespace device = kernels::device;
using kernels::DType;

absl::Status DeviceLlama::Forward(const ForwardContext& context, const ForwardInput& input) {
  const auto rows = static_cast<int64_t>(input.token_ids.size());
  if (rows > options_.max_batch_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "forward: ", rows, " rows exceed the ", options_.max_batch_tokens, " that were reserved"));
  }
  RETURN_IF_ERROR(device::UseDevice(options_.device.index));
  // Upload waits for the last one, and so for peers that came before it.
  if (ranks_ != nullptr) RETURN_IF_ERROR(ranks_->AwaitMark());
  ASSIGN_OR_RETURN(const DeviceBatch* const batch, inputs_->Upload(stream_, input));
  if (ranks_ != nullptr) RETURN_IF_ERROR(ranks_->Mark(stream_));
  if (context.track != nullptr) RETURN_IF_ERROR(TraceIdle(context));
  if (batch->num_token_rows > 0) {
    RETURN_IF_ERROR(kernels::DeviceTakeChosen(
        stream_, chosen_, batch->token_rows, batch->num_token_rows, batch->token_ids));
  }
  const int64_t hidden_bytes = rows * config_.hidden_size * static_cast<int64_t>(sizeof(float));
  if (before_ != nullptr) {
    RETURN_IF_ERROR(before_->Receive(stream_, hidden_.data(), hidden_bytes));
  } else if (!options_.place.is_first_stage()) {
    RETURN_IF_ERROR(
        device::Copy(stream_, hidden_.data(), staged_hidden_.as<float>(), hidden_bytes));
    // The next batch's may come at any time.
    RETURN_IF_ERROR(Await());
  }
  const auto run = [&] { return RunLayers(context, *batch, input.on_layer); };
  bool is_timed = false;
  if (timer_ != nullptr) {
    ASSIGN_OR_RETURN(is_timed, timer_->BeginPass());
  }
  const bool is_graph = batch->shape.has_value() && !is_timed;
  RETURN_IF_ERROR(is_graph ? graphs_.Run(stream_, *batch->shape, run) : run());
  if (is_timed) RETURN_IF_ERROR(timer_->EndPass());
  if (options_.place.is_last_stage()) return absl::OkStatus();
  if (after_ != nullptr) return after_->Send(stream_, hidden_.data(), hidden_bytes);
  RETURN_IF_ERROR(device::Copy(stream_, staged_hidden_.as<float>(), hidden_.data(), hidden_bytes));
  return Await();
}

absl::Status DeviceLlama::TraceIdle(const ForwardContext& context) {
  if (idle_ == nullptr) {
    ASSIGN_OR_RETURN(idle_, IdleClock::Create());
  }
  ASSIGN_OR_RETURN(const int64_t idle_ns, idle_->ReadNs());
  if (idle_ns >= 0) const TraceSpan span(context.track, "device idle", {{"ns", idle_ns}});
  return idle_->BeginStep(stream_);
}

absl::Status DeviceLlama::RunLayers(const ForwardContext& context,
                                    const DeviceBatch& batch,
                                    absl::FunctionRef<void()> on_layer) {
  if (options_.place.is_first_stage()) RETURN_IF_ERROR(Embed(context, batch));
  RETURN_IF_ERROR(
      Norm(hidden_.as<float>(), layers_.front().attention_norm, batch.rows, norm_.data()));
  for (size_t i = 0; i < layers_.size(); ++i) {
    RETURN_IF_ERROR(RunLayer(context, batch, static_cast<int32_t>(i)));
    on_layer();
  }
  return absl::OkStatus();
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
  void* const own = gathers ? own_.data() : projected_.data();

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
                                        .dtype = dtype(),
                                        .kv_dtype = options_.kv_dtype}));
  RETURN_IF_ERROR(Attend(batch, index, own));
  if (gathers) {
    RETURN_IF_ERROR(exchange_->GatherColumns(
        *comm, heads().query, batch.rows, kernels::DTypeSize(dtype()), own, projected_.data()));
  }
  RETURN_IF_ERROR(
      AddToHidden(context, layer.output, heads().query.begin() == 0, batch.rows, &layer.mlp_norm));

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
  const bool is_last = index + 1 == static_cast<int32_t>(layers_.size());
  return AddToHidden(context,
                     layer.down,
                     inner.begin() == 0,
                     batch.rows,
                     is_last ? nullptr : &layers_[index + 1].attention_norm);
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
         .dtype = dtype(),
         .kv_dtype = options_.kv_dtype}));
  }
  if (batch.num_prefill_items == 0) return absl::OkStatus();
  const auto prefill =
      options_.device.wgmma_prefill ? &kernels::PagedPrefillWgmma : &kernels::PagedPrefill;
  return prefill(stream_,
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
                  .dtype = dtype(),
                  .kv_dtype = options_.kv_dtype});
}

absl::Status DeviceLlama::AddToHidden(const ForwardContext& context,
                                      const DeviceLinear& linear,
                                      bool is_first,
                                      int32_t rows,
                                      const DeviceBuffer* norm) {
  const Shares& shares = partition_.hidden;
  const int64_t begin = adds_up() ? 0 : shares.begin();
  auto* const hidden = hidden_.as<float>();
  RETURN_IF_ERROR(linear.Forward(stream_,
                                 {.x = projected_.data(),
                                  .rows = rows,
                                  .y = hidden + begin,
                                  .y_stride = config_.hidden_size,
                                  .y_dtype = DType::kF32,
                                  .accumulate = is_first || !adds_up()}));
  if (context.tensor_group == nullptr) {
    return norm == nullptr ? absl::OkStatus() : Norm(hidden, *norm, rows, norm_.data());
  }
  const kernels::DevicePeerNorm after{.weight = norm == nullptr ? nullptr : norm->as<const float>(),
                                      .out = norm_.data(),
                                      .eps = config_.rms_norm_eps,
                                      .dtype = dtype()};
  if (adds_up()) {
    return exchange_->Sum(*context.tensor_group, hidden, rows, config_.hidden_size, after);
  }
  return exchange_->GatherColumnsInPlace(*context.tensor_group, shares, rows, hidden, after);
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
                                        absl::Span<BestLogit> best,
                                        absl::Span<const SampleJob> jobs,
                                        absl::Span<SampleResult> results) {
  RETURN_IF_ERROR(StartLogits(context, rows, static_cast<int32_t>(best.size()), jobs));
  RETURN_IF_ERROR(Await());
  if (!jobs.empty()) sampler_->Take(jobs, results);
  if (best.empty()) return absl::OkStatus();
  TakeBest(best);
  return MergeBest(context.tensor_group, best);
}

absl::Status DeviceLlama::FinishLogits(absl::Span<BestLogit> best,
                                       absl::Span<const SampleJob> jobs,
                                       absl::Span<SampleResult> results) {
  RETURN_IF_ERROR(device::UseDevice(options_.device.index));
  RETURN_IF_ERROR(answered_->Await());
  if (!jobs.empty()) sampler_->Take(jobs, results);
  TakeBest(best);
  return absl::OkStatus();
}

absl::Status DeviceLlama::StartLogits(const ForwardContext& context,
                                      absl::Span<const int32_t> rows,
                                      int32_t num_best,
                                      absl::Span<const SampleJob> jobs) {
  const auto m = static_cast<int32_t>(rows.size());
  if (m > kMaxLogitRows) {
    return absl::InvalidArgumentError(
        absl::StrCat("logits: ", m, " rows exceed the ", kMaxLogitRows, " that were reserved"));
  }
  RETURN_IF_ERROR(device::UseDevice(options_.device.index));
  ASSIGN_OR_RETURN(float* const from, GatherRows(rows));
  RETURN_IF_ERROR(Norm(from, output_norm_, m, norm_.data()));
  RETURN_IF_ERROR(head_->Forward(stream_,
                                 {.x = norm_.data(),
                                  .rows = m,
                                  .y = logits_.data(),
                                  .y_stride = partition_.vocabulary.size(),
                                  .y_dtype = DType::kF32}));
  if (num_best > 0) RETURN_IF_ERROR(FindBest(num_best));
  if (num_best < m) {
    ASSIGN_OR_RETURN(const kernels::DeviceLogits whole, WholeRows(context, num_best, m - num_best));
    if (!jobs.empty()) {
      RETURN_IF_ERROR(sampler_->Run(stream_, whole, jobs));
    } else if (staged_logits_.bytes() > 0) {
      const kernels::MutableMatrix logits = this->logits(m).Rows(num_best, m - num_best);
      RETURN_IF_ERROR(device::Copy(
          stream_, logits.data, whole.data, logits.rows * logits.cols * int64_t{sizeof(float)}));
    }
  }
  chosen_ = {.best = best_.as<const kernels::DeviceBestLogit>(),
             .num_best = num_best,
             .tokens = sampler_ == nullptr ? nullptr : sampler_->tokens()};
  if (idle_ != nullptr) RETURN_IF_ERROR(idle_->EndStep(stream_));
  return answered_->Record(stream_);
}

absl::Status DeviceLlama::Sample(const kernels::MutableMatrix& rows,
                                 absl::Span<const SampleJob> jobs,
                                 absl::Span<SampleResult> results) {
  RETURN_IF_ERROR(device::UseDevice(options_.device.index));
  auto* const whole = whole_logits_.as<float>();
  RETURN_IF_ERROR(
      device::Copy(stream_, whole, rows.data, rows.rows * rows.cols * int64_t{sizeof(float)}));
  RETURN_IF_ERROR(sampler_->Run(stream_,
                                {.data = whole,
                                 .stride = rows.cols,
                                 .num_rows = static_cast<int32_t>(rows.rows),
                                 .vocab_size = static_cast<int32_t>(rows.cols)},
                                jobs));
  RETURN_IF_ERROR(Await());
  sampler_->Take(jobs, results);
  return absl::OkStatus();
}

absl::StatusOr<kernels::DeviceLogits> DeviceLlama::WholeRows(const ForwardContext& context,
                                                             int32_t first,
                                                             int32_t count) {
  const Shares& shares = partition_.vocabulary;
  float* data = logits_.as<float>() + int64_t{first} * shares.size();
  if (context.tensor_group != nullptr) {
    auto* const whole = whole_logits_.as<float>();
    RETURN_IF_ERROR(
        exchange_->GatherColumns(*context.tensor_group, shares, count, sizeof(float), data, whole));
    data = whole;
  }
  return kernels::DeviceLogits{.data = data,
                               .stride = shares.total(),
                               .num_rows = count,
                               .vocab_size = static_cast<int32_t>(shares.total())};
}

void DeviceLlama::TakeBest(absl::Span<BestLogit> best) const {
  for (size_t i = 0; i < best.size(); ++i) {
    const kernels::DeviceBestLogit& found = staged_best_.as<const kernels::DeviceBestLogit>()[i];
    best[i] = {.id = found.id + static_cast<int32_t>(partition_.vocabulary.begin()),
               .logit = found.logit,
               .is_finite = found.all_finite};
  }
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

}  // namespace paceline::worker
