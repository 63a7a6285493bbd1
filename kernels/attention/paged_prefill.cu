// A block takes 64 query vectors of one KV head, 16 a warp, through the keys and values that the
// last of them sees, 64 positions at a time in two stages of asynchronous copies. Sums of a head of
// 256 are more than a thread has registers for: there two warps take the same vectors, each half of
// the values, and both compute the scores. Bound by the tensor cores when the context is long.
#include "absl/strings/str_cat.h"
#include "kernels/attention/paged_prefill_device.h"
#include "kernels/attention/warp_attention.cuh"

namespace paceline::kernels {
namespace {

constexpr int kWarps = 4;  // of different vectors
constexpr int kVectors = kWarps * kQueryRows;
template <int kHeadDim>
constexpr int kThreads = kHeadDim > 128 ? 256 : 128;
// Warps that take the same vectors.
template <int kHeadDim>
constexpr int kParts = kThreads<kHeadDim> / 32 / kWarps;

template <typename T, int kHeadDim, typename Kv>
__global__ void PrefillKernel(PagedPrefillArgs args) {
  using Loader = KvLoader<T, kHeadDim, Kv>;
  constexpr int kWidth = kHeadDim / kParts<kHeadDim>;
  const PrefillItem item = args.items[device::BlockPosition().x];
  const PrefillSequence sequence = args.sequences[item.sequence];
  const int group = args.num_heads / args.num_kv_heads;
  const int num_vectors = sequence.num_rows * group;
  const int warp = device::ThreadPosition().x / 32 % kWarps;
  const int first_dim = device::ThreadPosition().x / 32 / kWarps * kWidth;
  const int lane = device::ThreadPosition().x % 32;
  const PagedCache<kHeadDim, Kv> cache{args.kv,
                                       args.page_table + int64_t{item.sequence} * args.max_pages,
                                       args.page_size,
                                       args.num_kv_heads,
                                       item.kv_head};

  // Where vector `row` of this warp lies in a matrix whose rows are so many elements apart.
  const auto offset_of = [&](int row, int64_t stride) {
    const int vector = item.first + warp * kQueryRows + row;
    const int64_t token = sequence.first_row + vector / group;
    return token * stride + (item.kv_head * group + vector % group) * kHeadDim;
  };
  const auto exists = [&](int row) { return item.first + warp * kQueryRows + row < num_vectors; };
  // The end of the positions that vector `row` sees, and their begin.
  const auto end_of = [&](int row) {
    return sequence.context_before + (item.first + warp * kQueryRows + row) / group + 1;
  };
  const auto begin_before = [&](int end) {
    return args.window > 0 && end > args.window ? end - args.window : 0;
  };
  const int last =
      item.first + kVectors < num_vectors ? item.first + kVectors - 1 : num_vectors - 1;
  const int end = sequence.context_before + last / group + 1;
  const int num_granules = (end + kGranule - 1) / kGranule;
  const int first_granule =
      begin_before(sequence.context_before + item.first / group + 1) / kGranule;
  const auto copy_granule = [&](int granule) {
    Loader::template Copy<kThreads<kHeadDim>>(
        cache, [&](int row) { return granule * kGranule + row; }, end, granule);
  };

  uint32_t q[kHeadDim / 16][4];
  const auto* const queries = static_cast<const uint16_t*>(args.q);
  LoadQuery<kHeadDim>(
      [&](int row) { return exists(row) ? queries + offset_of(row, args.q_stride) : nullptr; }, q);
  const int ends[2] = {end_of(lane / 4), end_of(lane / 4 + 8)};
  const auto slope_of = [&](int row) {
    const int head = item.kv_head * group + (item.first + warp * kQueryRows + row) % group;
    return args.slopes != nullptr ? args.slopes[head] : 0.0f;
  };
  const float slopes[2] = {slope_of(lane / 4), slope_of(lane / 4 + 8)};
  RowStates<kWidth> total;
  total.Clear();
  copy_granule(first_granule);
  for (int granule = first_granule; granule < num_granules; ++granule) {
    if (granule + 1 < num_granules) {
      copy_granule(granule + 1);
      device::WaitForCopies<1>();
    } else {
      device::WaitForCopies<0>();
    }
    device::SyncThreads();
    const KvTile tile = Loader::template Get<kThreads<kHeadDim>>(granule);
    RowStates<kWidth> state;
    state.Clear();
    for (int step = 0; step < kGranule / kStep; ++step) {
      const int first = granule * kGranule + step * kStep;
      AddStep<T, kHeadDim, Kv>(q,
                               tile,
                               step * kStep,
                               first_dim,
                               {{begin_before(ends[0]) - first, begin_before(ends[1]) - first},
                                {ends[0] - first, ends[1] - first},
                                args.scale,
                                args.soft_cap,
                                {ends[0] - 1 - first, ends[1] - 1 - first},
                                {slopes[0], slopes[1]}},
                               state);
    }
    for (int h = 0; h < 2; ++h) {
      const MergeScales scales = MergeGranule(total.max[h], state.max[h]);
      for (int n = 0; n < kWidth / 8; ++n) {
        for (int i = 2 * h; i < 2 * h + 2; ++i) {
          total.out[n][i] =
              device::MulAdd(total.out[n][i], scales.keep, state.out[n][i] * scales.add);
        }
      }
      total.sum[h] = device::MulAdd(total.sum[h], scales.keep, state.sum[h] * scales.add);
      total.max[h] = scales.max;
    }
    device::SyncThreads();
  }
  for (int h = 0; h < 2; ++h) {
    const int row = lane / 4 + 8 * h;
    if (!exists(row)) continue;
    uint16_t* const out = static_cast<uint16_t*>(args.out) +
                          offset_of(row, int64_t{args.num_heads} * kHeadDim) + first_dim;
    for (int n = 0; n < kWidth / 8; ++n) {
      for (int i = 0; i < 2; ++i) {
        out[n * 8 + lane % 4 * 2 + i] = T::FromFloat(total.out[n][2 * h + i] / total.sum[h]);
      }
    }
  }
}

}  // namespace

std::vector<PrefillItem> PlanPagedPrefill(absl::Span<const PrefillSequence> sequences,
                                          int32_t num_heads,
                                          int32_t num_kv_heads) {
  std::vector<PrefillItem> items;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const int32_t num_vectors = sequences[s].num_rows * (num_heads / num_kv_heads);
    for (int32_t head = 0; head < num_kv_heads; ++head) {
      for (int32_t first = 0; first < num_vectors; first += kVectors) {
        items.push_back({static_cast<int32_t>(s), head, first});
      }
    }
  }
  return items;
}

absl::Status PagedPrefill(device::Stream stream, const PagedPrefillArgs& args) {
  constexpr char kOp[] = "PagedPrefill";
  if (auto status = CheckAttention(kOp, args); !status.ok()) return status;
  if (args.num_items <= 0) {
    return absl::InvalidArgumentError(absl::StrCat(kOp, ": num_items is ", args.num_items));
  }
  return ForAttentionTypes(kOp, args, [&]<typename T, int kHeadDim, typename Kv>() {
    return device::Launch(stream,
                          {args.num_items},
                          {kThreads<kHeadDim>},
                          KvLoader<T, kHeadDim, Kv>::kSharedBytes,
                          PrefillKernel<T, kHeadDim, Kv>,
                          args);
  });
}

}  // namespace paceline::kernels
