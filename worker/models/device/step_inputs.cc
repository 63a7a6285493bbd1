#include "worker/models/device/step_inputs.h"

#include <algorithm>
#include <cstring>

#include "proto/support/status_macros.h"

namespace paceline::worker {
namespace {

constexpr int64_t kAlignment = 16;

int64_t Aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

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
  auto inputs = std::unique_ptr<StepInputs>(new StepInputs(options, workspace_bytes));
  ASSIGN_OR_RETURN(inputs->copied_, DeviceEvent::Create());
  return inputs;
}

template <typename T>
void StepInputs::Add(const std::vector<T>& values, const T*& place) {
  pieces_.push_back({values.data(), static_cast<int64_t>(values.size() * sizeof(T)), &place});
}

absl::StatusOr<const DeviceBatch*> StepInputs::Upload(kernels::device::Stream stream,
                                                      const ForwardInput& input) {
  pieces_.clear();
  batch_.rows = static_cast<int32_t>(input.token_ids.size());
  slots_.assign(input.slots.begin(), input.slots.end());
  int32_t max_pages = 1;
  for (const kernels::SequenceView& s : input.sequences) {
    const int32_t positions = s.context_before + s.num_rows;
    max_pages =
        std::max(max_pages, (positions + kernels::kKvBlockSize - 1) / kernels::kKvBlockSize);
  }
  batch_.max_pages = max_pages;
  page_table_.assign(input.sequences.size() * max_pages, 0);
  for (size_t i = 0; i < input.sequences.size(); ++i) {
    const kernels::SequenceView& s = input.sequences[i];
    const auto pages = std::min<size_t>(s.block_table.size(), max_pages);
    std::copy_n(s.block_table.begin(), pages, page_table_.begin() + i * max_pages);
  }
  batch_.first_prefill = NumDecodes(input.sequences);
  const auto ints = [](absl::Span<const int32_t> span) {
    return static_cast<int64_t>(span.size() * sizeof(int32_t));
  };
  pieces_.push_back({input.token_ids.data(), ints(input.token_ids), &batch_.token_ids});
  pieces_.push_back({input.positions.data(), ints(input.positions), &batch_.positions});
  Add(slots_, batch_.slots);
  Add(page_table_, batch_.page_table);
  PlanDecodes(input);
  PlanPrefills(input);
  RETURN_IF_ERROR(Copy(stream));
  return &batch_;
}

void StepInputs::PlanDecodes(const ForwardInput& input) {
  lengths_.clear();
  for (int32_t i = 0; i < batch_.first_prefill; ++i) {
    lengths_.push_back(input.sequences[i].context_before + 1);
  }
  batch_.decodes.clear();
  plans_.clear();
  const auto num_items = [&](int32_t length) {
    return (length + kernels::kDeviceKvChunk - 1) / kernels::kDeviceKvChunk * options_.num_kv_heads;
  };
  for (int32_t first = 0; first < batch_.first_prefill;) {
    int32_t items = num_items(lengths_[first]);
    int32_t end = first + 1;
    while (end < batch_.first_prefill &&
           items + num_items(lengths_[end]) <= options_.max_decode_items) {
      items += num_items(lengths_[end++]);
    }
    batch_.decodes.push_back({.first = first, .count = end - first, .num_items = items});
    plans_.push_back(kernels::PlanPagedDecode(
        absl::MakeConstSpan(lengths_).subspan(first, end - first), options_.num_kv_heads));
    first = end;
  }
  if (lengths_.empty()) return;
  Add(lengths_, batch_.lengths);
  for (size_t i = 0; i < plans_.size(); ++i) {
    Add(plans_[i].items, batch_.decodes[i].items);
    Add(plans_[i].first_item, batch_.decodes[i].first_item);
  }
}

void StepInputs::PlanPrefills(const ForwardInput& input) {
  prefills_.clear();
  for (size_t i = batch_.first_prefill; i < input.sequences.size(); ++i) {
    const kernels::SequenceView& s = input.sequences[i];
    prefills_.push_back({s.first_row, s.num_rows, s.context_before});
  }
  prefill_items_.clear();
  if (!prefills_.empty()) {
    prefill_items_ =
        kernels::PlanPagedPrefill(prefills_, options_.num_heads, options_.num_kv_heads);
    Add(prefills_, batch_.prefills);
    Add(prefill_items_, batch_.prefill_items);
  }
  batch_.num_prefill_items = static_cast<int32_t>(prefill_items_.size());
}

absl::Status StepInputs::Copy(kernels::device::Stream stream) {
  int64_t bytes = 0;
  for (const Piece& piece : pieces_) bytes += Aligned(piece.bytes);
  RETURN_IF_ERROR(copied_->Await());
  if (bytes > pinned_.bytes()) {
    RETURN_IF_ERROR(kernels::device::Synchronize(stream));  // what reads the old one
    const int64_t room = std::max(2 * pinned_.bytes(), Aligned(bytes));
    ASSIGN_OR_RETURN(pinned_, PinnedBuffer::Allocate(room));
    device_ = {};
    ASSIGN_OR_RETURN(device_, DeviceBuffer::Allocate(room, workspace_bytes_));
  }
  int64_t offset = 0;
  for (const Piece& piece : pieces_) {
    std::memcpy(pinned_.as<char>() + offset, piece.from, piece.bytes);
    const char* const on_device = device_.as<char>() + offset;
    std::memcpy(piece.place, &on_device, sizeof(on_device));
    offset += Aligned(piece.bytes);
  }
  RETURN_IF_ERROR(kernels::device::Copy(stream, device_.data(), pinned_.as<char>(), bytes));
  return copied_->Record(stream);
}

}  // namespace paceline::worker
