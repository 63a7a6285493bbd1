// A block computes one chunk of one KV head for all query heads of its group: they are the rows of
// the tensor cores' 16-row operand, so K and V are read once for all of them. Each of its four
// warps takes one granule of 64 positions, first its keys, then its values, 32 at a time; two
// stages of asynchronous copies bring the next 32 of all four meanwhile. A second kernel merges a
// query head's granules. Bound by reading K and V.
#include "absl/strings/str_cat.h"
#include "kernels/attention/paged_decode_device.h"
#include "kernels/attention/warp_attention.cuh"

namespace paceline::kernels {
namespace {

constexpr int kWarps = kDeviceKvChunk / kGranule;
constexpr int kThreads = 32 * kWarps;
constexpr int kHalf = kGranule / 2;  // positions of each granule that come together
constexpr int kHalves = 2;

// The first chunk of which a row sees something.
__device__ __host__ __forceinline__ int FirstChunk(int length, int window) {
  return FirstSeen(length, window) / kDeviceKvChunk;
}

// The partial result of a query head and granule: weighted sums, maximum, sum of weights.
__device__ __forceinline__ float* Partial(
    const PagedDecodeArgs& args, int64_t item, int granule, int row, int group) {
  return args.partials + ((item * kWarps + granule) * group + row) * (args.head_dim + 2);
}

template <typename T, int kHeadDim, typename Kv>
__global__ void ChunkKernel(PagedDecodeArgs args) {
  using Loader = KvLoader<T, kHeadDim, Kv>;
  const DecodeItem item = args.items[device::BlockPosition().x];
  if (item.sequence < 0) return;
  const int group = args.num_heads / args.num_kv_heads;
  const int begin = item.chunk * kDeviceKvChunk;
  const int length = args.lengths[item.sequence];
  const int num_positions =
      length - begin < kDeviceKvChunk ? length - begin : static_cast<int>(kDeviceKvChunk);
  // Warps with less than a granule to do come along.
  const int num_halves = num_positions > kHalf ? 2 : 1;
  const int warp = device::ThreadPosition().x / 32;
  const int lane = device::ThreadPosition().x % 32;
  const PagedCache<kHeadDim, Kv> cache{args.kv,
                                       args.page_table + int64_t{item.sequence} * args.max_pages,
                                       args.page_size,
                                       args.num_kv_heads,
                                       item.kv_head};
  const auto copy_stage = [&](int stage) {
    const auto source_of = [&](int row) {
      const int half = stage % num_halves;
      return KvRow{stage / num_halves, begin + row / kHalf * kGranule + half * kHalf + row % kHalf};
    };
    Loader::template Copy<kThreads>(cache, source_of, length, stage);
  };
  // The tile of this stage, from the warp's rows on, once it is there and the next is on its way.
  const auto get_stage = [&](int stage) {
    if (stage + 1 < 2 * num_halves) {
      copy_stage(stage + 1);
      device::WaitForCopies<1>();
    } else {
      device::WaitForCopies<0>();
    }
    device::SyncThreads();
    return Loader::template Get<kThreads>(stage).From(warp * kHalf);
  };

  uint32_t q[kHeadDim / 16][4];
  const auto* const queries = static_cast<const uint16_t*>(args.q) + item.sequence * args.q_stride +
                              int64_t{item.kv_head} * group * kHeadDim;
  LoadQuery<kHeadDim>([&](int row) { return row < group ? queries + row * kHeadDim : nullptr; }, q);
  const auto slope_of = [&](int row) {
    return args.slopes != nullptr && row < group ? args.slopes[item.kv_head * group + row] : 0.0f;
  };
  GranuleScores scores = {};
  copy_stage(0);
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
    if (half == num_halves) break;
    const KvTile<kHeadDim> tile = get_stage(half);
    for (int step = 0; step < kHalf / kStep; ++step) {
      const int n = half * (kHalf / 8) + 2 * step;
      AddKeys<T, kHeadDim, Kv>(q, tile.From(step * kStep), scores[n], scores[n + 1]);
    }
    device::SyncThreads();
  }
  const RowViews view({length, length},
                      args.window,
                      {slope_of(lane / 4), slope_of(lane / 4 + 8)},
                      {args.scale, args.soft_cap});
  const RowStates state = GranuleWeights(view, begin + warp * kGranule, scores);
  float out[kHeadDim / 8][4] = {};
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
    if (half == num_halves) break;
    const KvTile<kHeadDim> tile = get_stage(num_halves + half);
    for (int step = 0; step < kHalf / kStep; ++step) {
      const KvTile<kHeadDim> values = tile.From(step * kStep);
      uint32_t p[4];
      PackWeights<T, Kv>(scores, half * (kHalf / kStep) + step, values.scales, p);
      for (int d = 0; d < kHeadDim / 16; ++d) {
        AddValues<T, kHeadDim>(p, values.rows + d * 16, out[2 * d], out[2 * d + 1]);
      }
    }
    device::SyncThreads();
  }
  for (int h = 0; h < 2; ++h) {
    const int row = lane / 4 + 8 * h;
    if (row >= group) continue;
    float* const partial = Partial(args, device::BlockPosition().x, warp, row, group);
    for (int n = 0; n < kHeadDim / 8; ++n) {
      for (int i = 0; i < 2; ++i) partial[n * 8 + lane % 4 * 2 + i] = out[n][2 * h + i];
    }
    if (lane % 4 == 0) {
      partial[kHeadDim] = state.max[h];
      partial[kHeadDim + 1] = state.sum[h];
    }
  }
}

// A block merges one query head's granules, in order of position.
template <typename T, int kHeadDim>
__global__ void MergeKernel(PagedDecodeArgs args) {
  const int sequence = device::BlockPosition().x;
  const int head = device::BlockPosition().y;
  const int group = args.num_heads / args.num_kv_heads;
  const int length = args.lengths[sequence];
  if (length <= 0) return;
  const int first_chunk = FirstChunk(length, args.window);
  const int num_chunks = (length + kDeviceKvChunk - 1) / kDeviceKvChunk - first_chunk;
  const int num_granules = (length + kGranule - 1) / kGranule - first_chunk * kWarps;
  const int64_t first = args.first_item[sequence] + int64_t{head / group} * num_chunks;
  auto* const out =
      static_cast<uint16_t*>(args.out) + (int64_t{sequence} * args.num_heads + head) * kHeadDim;
  for (int d = device::ThreadPosition().x; d < kHeadDim; d += kThreads) {
    float max = kLowest;
    float value = 0;
    float sum = 0;
    for (int granule = 0; granule < num_granules; ++granule) {
      const float* const part =
          Partial(args, first + granule / kWarps, granule % kWarps, head % group, group);
      const MergeScales scales = MergeGranule(max, part[kHeadDim]);
      value = device::MulAdd(value, scales.keep, part[d] * scales.add);
      sum = device::MulAdd(sum, scales.keep, part[kHeadDim + 1] * scales.add);
      max = scales.max;
    }
    out[d] = T::FromFloat(value * (1 / sum));
  }
}

}  // namespace

DecodePlan PlanPagedDecode(absl::Span<const int32_t> lengths,
                           int32_t num_kv_heads,
                           int32_t window) {
  DecodePlan plan;
  for (size_t s = 0; s < lengths.size(); ++s) {
    plan.first_item.push_back(static_cast<int32_t>(plan.items.size()));
    const int32_t num_chunks = (lengths[s] + kDeviceKvChunk - 1) / kDeviceKvChunk;
    for (int32_t head = 0; head < num_kv_heads; ++head) {
      for (int32_t chunk = FirstChunk(lengths[s], window); chunk < num_chunks; ++chunk) {
        plan.items.push_back({static_cast<int32_t>(s), head, chunk});
      }
    }
  }
  return plan;
}

int64_t DecodePartialFloats(int64_t num_items,
                            int32_t num_heads,
                            int32_t num_kv_heads,
                            int32_t head_dim) {
  return num_items * kWarps * (num_heads / num_kv_heads) * (head_dim + 2);
}

absl::Status PagedDecode(device::Stream stream, const PagedDecodeArgs& args) {
  constexpr char kOp[] = "PagedDecode";
  if (auto status = CheckAttention(kOp, args); !status.ok()) return status;
  if (args.num_sequences <= 0 || args.num_items <= 0 ||
      args.num_heads / args.num_kv_heads > kMaxQueryHeadsPerKv) {
    return absl::InvalidArgumentError(absl::StrCat(kOp,
                                                   ": ",
                                                   args.num_sequences,
                                                   " sequences, ",
                                                   args.num_items,
                                                   " items, ",
                                                   args.num_heads,
                                                   " query heads on ",
                                                   args.num_kv_heads,
                                                   " KV heads: 1 to 16 each"));
  }
  return ForAttentionTypes(kOp, args, [&]<typename T, int kHeadDim, typename Kv>() {
    if (auto status = device::Launch(stream,
                                     {args.num_items},
                                     {kThreads},
                                     KvLoader<T, kHeadDim, Kv>::kSharedBytes,
                                     ChunkKernel<T, kHeadDim, Kv>,
                                     args);
        !status.ok()) {
      return status;
    }
    return device::Launch(stream,
                          {args.num_sequences, args.num_heads},
                          {kThreads},
                          0,
                          MergeKernel<T, kHeadDim>,
                          args);
  });
}

}  // namespace paceline::kernels
