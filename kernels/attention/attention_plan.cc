#include "kernels/attention/attention_plan.h"

#include <algorithm>

namespace paceline::kernels {
namespace {

// Query vectors per item: enough to reuse a chunk of K and V from the cache, few enough to balance.
constexpr int32_t kItemQueries = 48;
// An item dearer than 1 / (this * threads) of the whole is cut by chunk.
constexpr int64_t kBalance = 4;

int32_t ChunksSeen(const SequenceView& sequence, int32_t first_row, int32_t num_rows) {
  const int32_t positions = sequence.context_before + first_row + num_rows;
  return (positions + kKvChunk - 1) / kKvChunk;
}

int32_t RowsPerItem(int32_t group) { return std::max(1, kItemQueries / group); }

// Rough cost of an item: chunks times rows.
int64_t Cost(int32_t num_chunks, int32_t num_rows) { return int64_t{num_chunks} * (1 + num_rows); }

int64_t TotalCost(absl::Span<const SequenceView> sequences, int32_t num_kv_heads, int32_t rows) {
  int64_t total = 0;
  for (const SequenceView& s : sequences) {
    for (int32_t first = 0; first < s.num_rows; first += rows) {
      const int32_t count = std::min(rows, s.num_rows - first);
      total += Cost(ChunksSeen(s, first, count), count) * num_kv_heads;
    }
  }
  return total;
}

}  // namespace

void PlanAttention(absl::Span<const SequenceView> sequences,
                   int32_t num_kv_heads,
                   int32_t group,
                   int num_threads,
                   AttentionPlan& plan) {
  plan.items.clear();
  plan.merges.clear();
  plan.num_partials = 0;
  const int32_t rows = RowsPerItem(group);
  const int64_t total = TotalCost(sequences, num_kv_heads, rows);
  for (int32_t s = 0; s < static_cast<int32_t>(sequences.size()); ++s) {
    const SequenceView& sequence = sequences[s];
    // Last rows first: they see the most, and large items are best started early.
    const int32_t tiles = (sequence.num_rows + rows - 1) / rows;
    for (int32_t tile = tiles - 1; tile >= 0; --tile) {
      const int32_t first = tile * rows;
      const int32_t count = std::min(rows, sequence.num_rows - first);
      const int32_t chunks = ChunksSeen(sequence, first, count);
      const bool split =
          num_threads > 1 && chunks > 1 && Cost(chunks, count) * kBalance * num_threads > total;
      for (int32_t head = 0; head < num_kv_heads; ++head) {
        if (!split) {
          plan.items.push_back({s, head, first, count, -1, 0});
          continue;
        }
        plan.merges.push_back({s, head, first, count, chunks, plan.num_partials});
        for (int32_t chunk = 0; chunk < chunks; ++chunk) {
          plan.items.push_back({s, head, first, count, chunk, plan.num_partials});
          plan.num_partials += int64_t{count} * group;
        }
      }
    }
  }
}

}  // namespace paceline::kernels
