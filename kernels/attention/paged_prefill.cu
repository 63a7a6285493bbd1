// A block takes 64 query vectors of one KV head, 16 a warp, through the keys and values that the
// last of them sees, 64 positions at a time in two stages of asynchronous copies. Sums of a head of
// 256 are more than a thread has registers for: there two warps take the same vectors, each half of
// the values, and both compute the scores. Bound by the tensor cores when the context is long.
#include "absl/strings/str_cat.h"
#include "kernels/attention/prefill_vectors.cuh"

namespace paceline::kernels {
namespace {

constexpr int kWarps = kPrefillVectors / kQueryRows;  // of different vectors
template <int kHeadDim>
constexpr int kThreads = kHeadDim > 128 ? 256 : 128;
// Warps that take the same vectors.
template <int kHeadDim>
constexpr int kParts = kThreads<kHeadDim> / 32 / kWarps;

template <typename T, int kHeadDim, typename Kv>
__global__ void PrefillKernel(PagedPrefillArgs args) {
  using Loader = KvLoader<T, kHeadDim, Kv>;
  constexpr int kWidth = kHeadDim / kParts<kHeadDim>;
  const PrefillVectors<kHeadDim> vectors(args, args.items[device::BlockPosition().x]);
  const int lane = device::ThreadPosition().x % 32;
  const int first_dim = device::ThreadPosition().x / 32 / kWarps * kWidth;
  const int first = device::ThreadPosition().x / 32 % kWarps * kQueryRows;  // vector of the warp
  const int lane_vectors[2] = {first + lane / 4, first + lane / 4 + 8};
  const auto cache = vectors.template Cache<Kv>();
  const int end = vectors.LastEnd(kPrefillVectors);
  const int num_granules = (end + kGranule - 1) / kGranule;
  const int first_granule = vectors.FirstGranule();
  const auto copy_granule = [&](int granule) {
    const auto source_of = [&](int row) {
      return KvRow{row / kGranule, granule * kGranule + row % kGranule};
    };
    Loader::template Copy<kThreads<kHeadDim>>(cache, source_of, end, granule);
  };

  uint32_t q[kHeadDim / 16][4];
  LoadQuery<kHeadDim>([&](int row) { return vectors.Query(first + row); }, q);
  const RowViews view = vectors.Views(lane_vectors[0], lane_vectors[1]);
  float out[kWidth / 8][4] = {};
  RowStates total;
  copy_granule(first_granule);
  for (int granule = first_granule; granule < num_granules; ++granule) {
    if (granule + 1 < num_granules) {
      copy_granule(granule + 1);
      device::WaitForCopies<1>();
    } else {
      device::WaitForCopies<0>();
    }
    device::SyncThreads();
    const KvTile<kHeadDim> tile = Loader::template Get<kThreads<kHeadDim>>(granule);
    GranuleScores scores = {};
    for (int step = 0; step < kGranule / kStep; ++step) {
      AddKeys<T, kHeadDim, Kv>(q, tile.From(step * kStep), scores[2 * step], scores[2 * step + 1]);
    }
    const RowStates state = GranuleWeights(view, granule * kGranule, scores);
    uint32_t p[kGranule / kStep][4];
    for (int step = 0; step < kGranule / kStep; ++step) {
      PackWeights<T, Kv>(scores, step, tile.From(kGranule + step * kStep).scales, p[step]);
    }
    const MergeScales scales[2] = {total.Merge(state, 0), total.Merge(state, 1)};
    for (int d = 0; d < kWidth / 16; ++d) {
      float sums[2][4] = {};
      for (int step = 0; step < kGranule / kStep; ++step) {
        const uint16_t* const values = tile.From(kGranule + step * kStep).rows;
        AddValues<T, kHeadDim>(p[step], values + first_dim + d * 16, sums[0], sums[1]);
      }
      for (int n = 0; n < 2; ++n) {
        for (int i = 0; i < 4; ++i) {
          float& value = out[2 * d + n][i];
          value = device::MulAdd(value, scales[i / 2].keep, sums[n][i] * scales[i / 2].add);
        }
      }
    }
    device::SyncThreads();
  }
  for (int h = 0; h < 2; ++h) {
    // Made anew: registers are scarce above.
    PrefillVectors<kHeadDim>(args, args.items[device::BlockPosition().x])
        .template Store<T, kWidth>(lane_vectors[h], first_dim, h, out, total.sum[h]);
  }
}

}  // namespace

std::vector<PrefillItem> PlanPagedPrefill(absl::Span<const PrefillSequence> sequences,
                                          int32_t num_heads,
                                          int32_t num_kv_heads,
                                          int32_t vectors_per_item) {
  std::vector<PrefillItem> items;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const int32_t num_vectors = sequences[s].num_rows * (num_heads / num_kv_heads);
    for (int32_t head = 0; head < num_kv_heads; ++head) {
      for (int32_t first = 0; first < num_vectors; first += vectors_per_item) {
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
