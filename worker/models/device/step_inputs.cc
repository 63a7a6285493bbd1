#include "worker/models/device/step_inputs.h"

#include <algorithm>
#include <bit>

#include "proto/support/status_macros.h"

namespace paceline::worker {
namespace {

// Larger batches take the device longer than it takes the host to start their kernels one by one.
constexpr int32_t kMostRows = 256;
constexpr int32_t kFewPages = 16;

int32_t RoundUp(int32_t count) {
  return static_cast<int32_t>(std::bit_ceil(static_cast<uint32_t>(count)));
}

// Eight rows are a tile of the tensor cores, and cost what one does.
int32_t FilledRows(int32_t rows) {
  constexpr int32_t kTile = 8;
  return rows < kTile ? RoundUp(rows) : (rows + kTile - 1) / kTile * kTile;
}

int32_t NumChunks(int32_t length) {
  return (length + kernels::kDeviceKvChunk - 1) / kernels::kDeviceKvChunk;
}

// Decodes come first in a batch: their rows are then the first rows, in order.
int32_t NumDecodes(absl::Span<const kernels::SequenceView> sequences) {
  int32_t count = 0;
  for (const kernels::SequenceView& s : sequences) {
    if (s.num_rows != 1 || s.first_row != count) break;
    ++count;
  }
  return count;
}

}  // namespace

absl::StatusOr<std::unique_ptr<StepInputs>> StepInputs::Create(const Options& options,
                                                               int64_t& workspace_bytes) {
  auto inputs = std::unique_ptr<StepInputs>(new StepInputs(options));
  ASSIGN_OR_RETURN(inputs->staging_, Staging::Create(workspace_bytes));
  return inputs;
}

absl::StatusOr<const DeviceBatch*> StepInputs::Upload(kernels::device::Stream stream,
                                                      const ForwardInput& input) {
  staging_->Clear();
  batch_.rows = static_cast<int32_t>(input.token_ids.size());
  batch_.first_prefill = NumDecodes(input.sequences);
  const bool fills_up = FitsAShape(input);
  batch_.max_pages = 1;
  for (const kernels::SequenceView& s : input.sequences) {
    const int32_t positions = s.context_before + s.num_rows;
    batch_.max_pages =
        std::max(batch_.max_pages, (positions + kernels::kKvBlockSize - 1) / kernels::kKvBlockSize);
  }
  if (fills_up) batch_.max_pages = RoundUp(std::max(batch_.max_pages, kFewPages));
  token_ids_.assign(input.token_ids.begin(), input.token_ids.end());
  positions_.assign(input.positions.begin(), input.positions.end());
  slots_.assign(input.slots.begin(), input.slots.end());
  page_table_.assign(input.sequences.size() * batch_.max_pages, 0);
  for (size_t i = 0; i < input.sequences.size(); ++i) {
    const kernels::SequenceView& s = input.sequences[i];
    const auto pages = std::min<size_t>(s.block_table.size(), batch_.max_pages);
    std::copy_n(s.block_table.begin(), pages, page_table_.begin() + i * batch_.max_pages);
  }
  PlanDecodes(input);
  batch_.shape.reset();
  if (fills_up) FillUp();
  staging_->Add(token_ids_, batch_.token_ids);
  staging_->Add(positions_, batch_.positions);
  staging_->Add(slots_, batch_.slots);
  staging_->Add(page_table_, batch_.page_table);
  staging_->Add(lengths_, batch_.lengths);
  for (size_t i = 0; i < plans_.size(); ++i) {
    staging_->Add(plans_[i].items, batch_.decodes[i].items);
    staging_->Add(plans_[i].first_item, batch_.decodes[i].first_item);
  }
  PlanPrefills(input);
  // Last: what a graph reads is where it is without it, too.
  batch_.num_token_rows = static_cast<int32_t>(input.token_rows.size());
  staging_->Add(input.token_rows, batch_.token_rows);
  RETURN_IF_ERROR(staging_->Copy(stream));
  if (fills_up) batch_.shape->version = staging_->version();
  return &batch_;
}

int32_t StepInputs::NumItems(int32_t length) const {
  return NumChunks(length) * options_.num_kv_heads;
}

bool StepInputs::FitsAShape(const ForwardInput& input) const {
  const auto count = static_cast<int32_t>(input.sequences.size());
  const int32_t most = std::min(kMostRows, options_.max_filled_rows);
  if (count == 0 || batch_.first_prefill != count || FilledRows(count) > most) return false;
  int64_t items = 0;
  for (const kernels::SequenceView& s : input.sequences) {
    items += int64_t{NumChunks(s.context_before + 1)} * options_.all_kv_heads;
  }
  return items <= options_.max_decode_items;
}

void StepInputs::PlanDecodes(const ForwardInput& input) {
  lengths_.clear();
  for (int32_t i = 0; i < batch_.first_prefill; ++i) {
    lengths_.push_back(input.sequences[i].context_before + 1);
  }
  batch_.decodes.clear();
  plans_.clear();
  for (int32_t first = 0; first < batch_.first_prefill;) {
    int32_t items = NumItems(lengths_[first]);
    int32_t end = first + 1;
    while (end < batch_.first_prefill &&
           items + NumItems(lengths_[end]) <= options_.max_decode_items) {
      items += NumItems(lengths_[end++]);
    }
    batch_.decodes.push_back({.first = first, .count = end - first, .num_items = items});
    plans_.push_back(kernels::PlanPagedDecode(
        absl::MakeConstSpan(lengths_).subspan(first, end - first), options_.num_kv_heads));
    first = end;
  }
}

void StepInputs::FillUp() {
  const int32_t rows = FilledRows(batch_.rows);
  DecodePass& pass = batch_.decodes.front();
  const int32_t items = std::min(RoundUp(pass.num_items), options_.max_decode_items);
  token_ids_.resize(rows, 0);
  positions_.resize(rows, 0);
  slots_.resize(rows, -1);  // writes no key
  page_table_.resize(size_t{1} * rows * batch_.max_pages, 0);
  lengths_.resize(rows, 0);  // sees nothing
  plans_.front().items.resize(items, {.sequence = -1, .kv_head = 0, .chunk = 0});
  plans_.front().first_item.resize(rows, 0);
  batch_.rows = pass.count = rows;
  pass.num_items = items;
  batch_.shape = {.rows = rows, .max_pages = batch_.max_pages, .num_items = items};
}

void StepInputs::PlanPrefills(const ForwardInput& input) {
  prefills_.clear();
  for (size_t i = batch_.first_prefill; i < input.sequences.size(); ++i) {
    const kernels::SequenceView& s = input.sequences[i];
    prefills_.push_back({s.first_row, s.num_rows, s.context_before});
  }
  prefill_items_.clear();
  if (!prefills_.empty()) {
    prefill_items_ = kernels::PlanPagedPrefill(
        prefills_, options_.num_heads, options_.num_kv_heads, options_.prefill_vectors);
    staging_->Add(prefills_, batch_.prefills);
    staging_->Add(prefill_items_, batch_.prefill_items);
  }
  batch_.num_prefill_items = static_cast<int32_t>(prefill_items_.size());
}

}  // namespace paceline::worker
