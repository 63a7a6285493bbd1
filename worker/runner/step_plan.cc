#include "worker/runner/step_plan.h"

#include <algorithm>

namespace paceline::worker {
namespace {

// Sequences that are remembered before all are forgotten: those that ended are never told apart.
constexpr size_t kMaxKnown = 16'384;

// Takes a message apart; once it is too short, everything is 0.
class Reader {
 public:
  explicit Reader(absl::Span<const int32_t> message) : left_(message) {}

  int32_t Next() {
    const absl::Span<const int32_t> one = Take(1);
    return one.empty() ? 0 : one[0];
  }
  absl::Span<const int32_t> Take(int32_t count) {
    if (count < 0 || static_cast<size_t>(count) > left_.size()) {
      ok_ = false;
      left_ = {};
      return {};
    }
    const absl::Span<const int32_t> taken = left_.subspan(0, count);
    left_.remove_prefix(count);
    return taken;
  }
  bool ok() const { return ok_; }
  bool done() const { return ok_ && left_.empty(); }

 private:
  absl::Span<const int32_t> left_;
  bool ok_ = true;
};

void Append(std::vector<int32_t>& to, absl::Span<const int32_t> what) {
  to.push_back(static_cast<int32_t>(what.size()));
  to.insert(to.end(), what.begin(), what.end());
}

}  // namespace

void StepPlan::Clear() {
  micro_batches.clear();
  token_ids.clear();
  token_rows.clear();
  positions.clear();
  slots.clear();
  sequences.clear();
  keys.clear();
  logit_rows.clear();
  zero_blocks.clear();
  copies.clear();
}

void StepPlan::AddRow(int32_t token_id, int32_t position, absl::Span<const int32_t> table) {
  token_ids.push_back(token_id);
  positions.push_back(position);
  slots.push_back(table[position / kernels::kKvBlockSize] * kernels::kKvBlockSize +
                  position % kernels::kKvBlockSize);
}

// reset, then lists, each after its length: zero_blocks, copies, logit_rows; then micro-batches of
// num_sequences, num_logits, num_best and, per sequence: slot, context_before, kept blocks, new
// blocks (a list), token ids (a list).
void PlanEncoder::Encode(const StepPlan& plan, std::vector<int32_t>& message) {
  message.clear();
  const bool reset = known_.size() > kMaxKnown;
  if (reset) known_.clear();
  message.push_back(reset ? 1 : 0);
  Append(message, plan.zero_blocks);
  message.push_back(static_cast<int32_t>(2 * plan.copies.size()));
  for (const kernels::BlockCopy& copy : plan.copies) {
    message.push_back(copy.from);
    message.push_back(copy.to);
  }
  Append(message, plan.logit_rows);
  message.push_back(static_cast<int32_t>(plan.micro_batches.size()));
  for (const MicroBatch& batch : plan.micro_batches) {
    message.push_back(batch.num_sequences);
    message.push_back(batch.num_logits);
    message.push_back(batch.num_best);
    for (int32_t i = 0; i < batch.num_sequences; ++i) {
      const int32_t index = batch.first_sequence + i;
      const kernels::SequenceView& sequence = plan.sequences[index];
      const auto [it, is_new] = known_.try_emplace(plan.keys[index]);
      Known& known = it->second;
      if (is_new) known.slot = static_cast<int32_t>(known_.size()) - 1;
      const absl::Span<const int32_t> table = sequence.block_table;
      const auto differ =
          std::mismatch(known.table.begin(), known.table.end(), table.begin(), table.end());
      const auto kept = static_cast<int32_t>(differ.first - known.table.begin());
      known.table.resize(kept);
      known.table.insert(known.table.end(), table.begin() + kept, table.end());
      message.push_back(known.slot);
      message.push_back(sequence.context_before);
      message.push_back(kept);
      Append(message, table.subspan(kept));
      Append(message,
             absl::MakeConstSpan(plan.token_ids)
                 .subspan(batch.first_row + sequence.first_row, sequence.num_rows));
    }
  }
}

absl::Status PlanDecoder::Decode(absl::Span<const int32_t> message, StepPlan& plan) {
  plan.Clear();
  Reader in(message);
  if (in.Next() != 0) tables_.clear();
  const auto zero = in.Take(in.Next());
  plan.zero_blocks.assign(zero.begin(), zero.end());
  const auto copies = in.Take(in.Next());
  for (size_t i = 0; i + 1 < copies.size(); i += 2) {
    plan.copies.push_back({.from = copies[i], .to = copies[i + 1]});
  }
  const auto logit_rows = in.Take(in.Next());
  plan.logit_rows.assign(logit_rows.begin(), logit_rows.end());
  const int32_t num_batches = in.Next();
  std::vector<int32_t> sequence_slots;
  for (int32_t b = 0; b < num_batches && in.ok(); ++b) {
    MicroBatch batch;
    batch.first_row = static_cast<int32_t>(plan.token_ids.size());
    batch.first_sequence = static_cast<int32_t>(plan.sequences.size());
    if (b > 0) {
      const MicroBatch& before = plan.micro_batches.back();
      batch.first_logit = before.first_logit + before.num_logits;
    }
    batch.num_sequences = in.Next();
    batch.num_logits = in.Next();
    batch.num_best = in.Next();
    for (int32_t i = 0; i < batch.num_sequences && in.ok(); ++i) {
      const int32_t slot = in.Next();
      const int32_t context_before = in.Next();
      const int32_t kept = in.Next();
      const auto blocks = in.Take(in.Next());
      const auto token_ids = in.Take(in.Next());
      if (!in.ok() || slot < 0 || slot > static_cast<int32_t>(tables_.size())) break;
      if (slot == static_cast<int32_t>(tables_.size())) tables_.emplace_back();
      std::vector<int32_t>& table = tables_[slot];
      const int64_t end = int64_t{context_before} + static_cast<int64_t>(token_ids.size());
      if (kept < 0 || kept > static_cast<int32_t>(table.size()) || context_before < 0 ||
          end > (kept + static_cast<int64_t>(blocks.size())) * kernels::kKvBlockSize) {
        return absl::InternalError("step plan: a block table does not fit what came before");
      }
      for (const int32_t block : blocks) {
        if (block < 0 || block > INT32_MAX / kernels::kKvBlockSize - 1) {
          return absl::InternalError("step plan: a block id is out of range");
        }
      }
      table.resize(kept);
      table.insert(table.end(), blocks.begin(), blocks.end());
      plan.sequences.push_back(
          {.first_row = static_cast<int32_t>(plan.token_ids.size()) - batch.first_row,
           .num_rows = static_cast<int32_t>(token_ids.size()),
           .context_before = context_before,
           .block_table = {}});
      sequence_slots.push_back(slot);
      for (size_t row = 0; row < token_ids.size(); ++row) {
        plan.AddRow(token_ids[row], context_before + static_cast<int32_t>(row), table);
      }
    }
    batch.num_rows = static_cast<int32_t>(plan.token_ids.size()) - batch.first_row;
    plan.micro_batches.push_back(batch);
  }
  if (!in.done()) return absl::InternalError("step plan: the message is cut or has a tail");
  for (size_t i = 0; i < sequence_slots.size(); ++i) {
    plan.sequences[i].block_table = tables_[sequence_slots[i]];
  }
  return absl::OkStatus();
}

}  // namespace paceline::worker
