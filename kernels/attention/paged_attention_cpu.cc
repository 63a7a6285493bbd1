// Paged attention's entry point and its readable reference kernels.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/attention/attention_kernels.h"
#include "kernels/attention/attention_plan.h"
#include "kernels/attention/paged_attention.h"
#include "kernels/dispatch.h"
#include "kernels/half.h"

namespace paceline::kernels {
namespace {

constexpr int32_t kBlocksPerChunk = kKvChunk / kKvBlockSize;

// ---- Reference kernels
// ---------------------------------------------------------------------------

// Element `index` of a block of f32 or f16.
float Element(const ChunkArgs& args, const uint8_t* block, int64_t index) {
  if (args.element == KvElement::kF16) {
    return HalfToFloat(reinterpret_cast<const uint16_t*>(block)[index]);
  }
  return reinterpret_cast<const float*>(block)[index];
}

float Int8Element(const ChunkArgs& args, const uint8_t* block, int64_t index, int32_t token) {
  const auto* const scales = reinterpret_cast<const float*>(block + kKvBlockSize * args.head_dim);
  return scales[token] * static_cast<float>(static_cast<int8_t>(block[index]));
}

float Key(const ChunkArgs& args, int32_t position, int64_t d) {
  const uint8_t* const block = args.keys[position / kKvBlockSize];
  const int32_t token = position % kKvBlockSize;
  if (args.element == KvElement::kI8) {
    return Int8Element(args, block, 2 * (d / 2 * kKvBlockSize + token) + d % 2, token);
  }
  return Element(args, block, d * kKvBlockSize + token);
}

float Value(const ChunkArgs& args, int32_t position, int64_t d) {
  const uint8_t* const block = args.values[position / kKvBlockSize];
  const int32_t token = position % kKvBlockSize;
  if (args.element == KvElement::kI8) {
    return Int8Element(args, block, 2 * (token / 2 * args.head_dim + d) + token % 2, token);
  }
  return Element(args, block, token * args.head_dim + d);
}

// One query vector against the first `visible` positions of the chunk.
void ChunkOneQuery(const ChunkArgs& args, const float* q, int32_t visible, float* partial) {
  float* const scores = args.scratch;
  float max = -std::numeric_limits<float>::infinity();
  for (int32_t t = 0; t < visible; ++t) {
    float dot = 0;
    for (int64_t d = 0; d < args.head_dim; ++d) dot += q[d] * Key(args, t, d);
    scores[t] = dot * args.scale;
    max = std::max(max, scores[t]);
  }
  std::fill_n(partial, args.head_dim, 0.0f);
  float sum = 0;
  for (int32_t t = 0; t < visible; ++t) {
    const float p = std::exp(scores[t] - max);
    sum += p;
    for (int64_t d = 0; d < args.head_dim; ++d) partial[d] += p * Value(args, t, d);
  }
  partial[args.head_dim] = max;
  partial[args.head_dim + 1] = sum;
}

void Chunk(const ChunkArgs& args) {
  for (int32_t r = 0; r < args.num_rows; ++r) {
    const int32_t visible = std::min(kKvChunk, args.first_visible + r);
    for (int32_t h = 0; h < args.group; ++h) {
      ChunkOneQuery(args,
                    args.q + r * args.q_row_stride + h * args.head_dim,
                    visible,
                    args.partials + (r * args.group + h) * (args.head_dim + kPartialExtra));
    }
  }
}

void Merge(float* into, const float* next, int64_t head_dim) {
  const float max = std::max(into[head_dim], next[head_dim]);
  const float a = std::exp(into[head_dim] - max);
  const float b = std::exp(next[head_dim] - max);
  for (int64_t d = 0; d < head_dim; ++d) into[d] = into[d] * a + next[d] * b;
  into[head_dim] = max;
  into[head_dim + 1] = into[head_dim + 1] * a + next[head_dim + 1] * b;
}

void Finish(const float* partial, int64_t head_dim, float* out) {
  for (int64_t d = 0; d < head_dim; ++d) out[d] = partial[d] / partial[head_dim + 1];
}

// ---- Running the plan
// ----------------------------------------------------------------------------

KvElement ElementOf(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return KvElement::kF16;
    case DType::kI8:
      return KvElement::kI8;
    default:
      return KvElement::kF32;
  }
}

// What every item of one call shares.
struct Call {
  const AttentionKernels& kernels;
  const Matrix& q;
  const KvCacheView& cache;
  int32_t layer;
  absl::Span<const SequenceView> sequences;
  float scale;
  int32_t group;
  int64_t partial_floats;  // of one query vector
  const MutableMatrix& out;

  const float* Query(const SequenceView& s, int32_t row, int32_t kv_head) const {
    return q.row(s.first_row + row) + int64_t{kv_head} * group * cache.layout.head_dim;
  }
};

// Keys of the first blocks of a chunk that exist, for args.after; others are left alone.
void FirstKeys(const Call& call,
               const SequenceView& sequence,
               int32_t kv_head,
               int32_t chunk,
               int32_t positions,
               const uint8_t* (&keys)[2]) {
  for (int32_t b = 0; b < 2; ++b) {
    const int32_t block = chunk * kBlocksPerChunk + b;
    if (block * kKvBlockSize >= positions) return;
    keys[b] = call.cache.Key(sequence.block_table[block], call.layer, kv_head);
  }
}

// Partials of the rows from `first_row` on that see any of `chunk`; returns the first such row
// (relative to first_row). Partials of row r lie at partials + r * group vectors. `next` is what
// follows, null for the item's next chunk.
int32_t RunChunk(const Call& call,
                 const SequenceView& sequence,
                 int32_t kv_head,
                 int32_t first_row,
                 int32_t num_rows,
                 int32_t chunk,
                 const AttentionItem* next,
                 float* partials,
                 float* scratch) {
  const int32_t visible = sequence.context_before + first_row + 1 - chunk * kKvChunk;
  const int32_t skip = std::max(0, 1 - visible);
  const int32_t last_visible = std::min(kKvChunk, visible + num_rows - 1);
  const uint8_t* keys[kBlocksPerChunk];
  const uint8_t* values[kBlocksPerChunk];
  for (int32_t b = 0; b * kKvBlockSize < last_visible; ++b) {
    const int32_t id = sequence.block_table[chunk * kBlocksPerChunk + b];
    keys[b] = call.cache.Key(id, call.layer, kv_head);
    values[b] = call.cache.Value(id, call.layer, kv_head);
  }
  ChunkArgs args;
  args.q = call.Query(sequence, first_row + skip, kv_head);
  args.q_row_stride = call.q.row_stride;
  args.num_rows = num_rows - skip;
  args.group = call.group;
  args.head_dim = call.cache.layout.head_dim;
  args.element = ElementOf(call.cache.layout.dtype);
  args.keys = keys;
  args.values = values;
  args.after[0] = args.after[1] = values[0];  // already here: touching it costs nothing
  const int32_t positions = sequence.context_before + first_row + num_rows;
  if (next == nullptr) {
    FirstKeys(call, sequence, kv_head, chunk + 1, positions, args.after);
  } else {
    const SequenceView& s = call.sequences[next->sequence];
    const int32_t end = s.context_before + next->first_row + next->num_rows;
    FirstKeys(call, s, next->kv_head, std::max(0, next->chunk), end, args.after);
  }
  args.first_visible = visible + skip;
  args.scale = call.scale;
  args.partials = partials + skip * call.group * call.partial_floats;
  args.scratch = scratch;
  call.kernels.chunk(args);
  return skip;
}

void FinishRows(const Call& call,
                const SequenceView& sequence,
                int32_t kv_head,
                int32_t first_row,
                int32_t num_rows,
                const float* partials) {
  const int32_t head_dim = call.cache.layout.head_dim;
  for (int32_t r = 0; r < num_rows; ++r) {
    float* const out =
        call.out.row(sequence.first_row + first_row + r) + int64_t{kv_head} * call.group * head_dim;
    for (int32_t h = 0; h < call.group; ++h) {
      call.kernels.finish(
          partials + (r * call.group + h) * call.partial_floats, head_dim, out + h * head_dim);
    }
  }
}

void MergeRows(const Call& call, int32_t first, int32_t end, float* into, const float* next) {
  for (int32_t i = first * call.group; i < end * call.group; ++i) {
    call.kernels.merge(
        into + i * call.partial_floats, next + i * call.partial_floats, call.cache.layout.head_dim);
  }
}

// All chunks of an item in order; scratch holds two sets of partials and the kernel's own. What
// this thread is likely to do next may be null.
void RunWholeItem(const Call& call,
                  const AttentionItem& item,
                  const AttentionItem* next_item,
                  float* scratch) {
  const SequenceView& s = call.sequences[item.sequence];
  const int64_t set = item.num_rows * call.group * call.partial_floats;
  float* const state = scratch;
  float* const next = scratch + set;
  const int32_t positions = s.context_before + item.first_row + item.num_rows;
  for (int32_t chunk = 0; chunk * kKvChunk < positions; ++chunk) {
    float* const partials = chunk == 0 ? state : next;
    const bool last = (chunk + 1) * kKvChunk >= positions;
    const int32_t skip = RunChunk(call,
                                  s,
                                  item.kv_head,
                                  item.first_row,
                                  item.num_rows,
                                  chunk,
                                  last ? next_item : nullptr,
                                  partials,
                                  scratch + 2 * set);
    if (chunk != 0) MergeRows(call, skip, item.num_rows, state, next);
  }
  FinishRows(call, s, item.kv_head, item.first_row, item.num_rows, state);
}

void RunMerge(const Call& call, const AttentionMerge& merge, float* partials) {
  const SequenceView& s = call.sequences[merge.sequence];
  const int64_t set = merge.num_rows * call.group * call.partial_floats;
  float* const state = partials + merge.partial_offset * call.partial_floats;
  const int32_t position = s.context_before + merge.first_row;
  for (int32_t chunk = 1; chunk < merge.num_chunks; ++chunk) {
    const int32_t skip = std::max(0, chunk * kKvChunk - position);
    MergeRows(call, skip, merge.num_rows, state, state + chunk * set);
  }
  FinishRows(call, s, merge.kv_head, merge.first_row, merge.num_rows, state);
}

absl::Status CheckSequence(const SequenceView& s, int64_t num_tokens, int32_t num_blocks) {
  if (s.num_rows <= 0 || s.first_row < 0 || s.context_before < 0 ||
      int64_t{s.first_row} + s.num_rows > num_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("PagedAttention: rows [",
                                                   s.first_row,
                                                   ", +",
                                                   s.num_rows,
                                                   ") after ",
                                                   s.context_before,
                                                   " positions, of ",
                                                   num_tokens,
                                                   " rows"));
  }
  const int64_t positions = int64_t{s.context_before} + s.num_rows;
  const int64_t needed = (positions + kKvBlockSize - 1) / kKvBlockSize;
  if (static_cast<int64_t>(s.block_table.size()) < needed) {
    return absl::InvalidArgumentError(absl::StrCat(
        "PagedAttention: ", s.block_table.size(), " blocks for ", positions, " positions"));
  }
  for (int32_t id : s.block_table.subspan(0, needed)) {
    if (id < 0 || id >= num_blocks) {
      return absl::InvalidArgumentError(
          absl::StrCat("PagedAttention: block ", id, " of ", num_blocks));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckInputs(const Matrix& q,
                         const KvCacheView& cache,
                         int32_t layer,
                         absl::Span<const SequenceView> sequences,
                         const MutableMatrix& out) {
  if (auto status = CheckLayout(cache.layout); !status.ok()) return status;
  if (auto status = CheckView("PagedAttention", "q", q); !status.ok()) return status;
  if (auto status = CheckView("PagedAttention", "out", out); !status.ok()) return status;
  if (q.rows != out.rows || q.cols != out.cols) {
    return ShapeMismatch("PagedAttention", "q", q, "out", out);
  }
  const int64_t width = int64_t{cache.layout.num_kv_heads} * cache.layout.head_dim;
  if (q.cols == 0 || q.cols % width != 0) {
    return absl::InvalidArgumentError(absl::StrCat("PagedAttention: q[tokens, heads * head_dim] ",
                                                   ShapeString(q),
                                                   " does not fit ",
                                                   cache.layout.num_kv_heads,
                                                   " KV heads of ",
                                                   cache.layout.head_dim));
  }
  if (layer < 0 || layer >= cache.layout.num_layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("PagedAttention: layer ", layer, " of ", cache.layout.num_layers));
  }
  for (const SequenceView& s : sequences) {
    if (auto status = CheckSequence(s, q.rows, cache.num_blocks); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

const AttentionKernels kAttentionPortable = {Chunk, Merge, Finish};

AttentionWorkspace::AttentionWorkspace() : plan_(std::make_unique<AttentionPlan>()) {}
AttentionWorkspace::~AttentionWorkspace() = default;

absl::StatusOr<float*> AttentionWorkspace::Reserve(int64_t count) {
  const size_t bytes = static_cast<size_t>(count) * sizeof(float);
  if (bytes > buffer_.size()) {
    auto buffer = AlignedBuffer::Allocate(bytes + bytes / 4);
    if (!buffer.ok()) return buffer.status();
    buffer_ = *std::move(buffer);
  }
  return reinterpret_cast<float*>(buffer_.data());
}

absl::Status PagedAttention(ThreadPool& pool,
                            const Matrix& q,
                            const KvCacheView& cache,
                            int32_t layer,
                            absl::Span<const SequenceView> sequences,
                            float scale,
                            AttentionWorkspace& workspace,
                            const MutableMatrix& out) {
  if (auto s = CheckInputs(q, cache, layer, sequences, out); !s.ok()) return s;
  const KvLayout& layout = cache.layout;
  const Call call{
      .kernels = Select(
          IsaTables<AttentionKernels>{&kAttentionPortable, &kAttentionAvx2, &kAttentionAvx512}),
      .q = q,
      .cache = cache,
      .layer = layer,
      .sequences = sequences,
      .scale = scale,
      .group = static_cast<int32_t>(q.cols / layout.head_dim / layout.num_kv_heads),
      .partial_floats = layout.head_dim + kPartialExtra,
      .out = out,
  };
  AttentionPlan& plan = workspace.plan();
  PlanAttention(sequences, layout.num_kv_heads, call.group, pool.num_threads(), plan);

  int32_t most_rows = 0;
  for (const AttentionItem& item : plan.items) most_rows = std::max(most_rows, item.num_rows);
  const int64_t thread_floats =
      2 * most_rows * call.group * call.partial_floats + ChunkScratchFloats(layout.head_dim);
  absl::StatusOr<float*> memory = workspace.Reserve(plan.num_partials * call.partial_floats +
                                                    pool.num_threads() * thread_floats);
  if (!memory.ok()) return memory.status();
  float* const partials = *memory + pool.num_threads() * thread_floats;

  pool.ForEach(static_cast<int64_t>(plan.items.size()), [&](int thread, int64_t i) {
    const AttentionItem& item = plan.items[i];
    float* const scratch = *memory + thread * thread_floats;
    const size_t following = static_cast<size_t>(i) + pool.num_threads();
    const AttentionItem* const next =
        following < plan.items.size() ? &plan.items[following] : nullptr;
    if (item.chunk < 0) {
      RunWholeItem(call, item, next, scratch);
    } else {
      RunChunk(call,
               sequences[item.sequence],
               item.kv_head,
               item.first_row,
               item.num_rows,
               item.chunk,
               next,
               partials + item.partial_offset * call.partial_floats,
               scratch);
    }
  });
  for (const AttentionMerge& merge : plan.merges) RunMerge(call, merge, partials);
  return absl::OkStatus();
}

}  // namespace paceline::kernels
