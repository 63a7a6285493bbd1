// Prefill attention by the products of warp groups (wgmma), for sm_90a alone. A block takes 128
// query vectors of one KV head, 64 a warp group, through the keys and values that the last of them
// sees. While a granule's values are being summed, the next one's scores are already there to be
// made weights: a stage of asynchronous copies is the values of a granule and the keys of the next.
// Bound by the tensor cores when the context is long.
//
// Scores, weights and merging are those of warp_attention.cuh, and sums go in the same steps of 16,
// so the bits are those of the other kernels where the tensor cores add alike.
#include "absl/strings/str_cat.h"
#include "kernels/attention/prefill_vectors.cuh"
#include "kernels/device/warp_group.cuh"

namespace paceline::kernels {
namespace {

constexpr int kThreads = kWgmmaPrefillVectors / 64 * device::kGroupThreads;
constexpr int kColumnBlockBytes = kGranule * device::kBlockRowBytes;  // 64 dimensions

// Keys and values of 64 positions each in shared memory, swizzled.
template <typename T, int kHeadDim>
struct SwizzledStage {
  static constexpr int kTileBytes = (kHeadDim + 63) / 64 * kColumnBlockBytes;
  static constexpr int kBytes = 2 * kTileBytes;
  static constexpr int kSharedBytes = kStages * kBytes;

  char* keys;

  __device__ explicit SwizzledStage(int number)
      : keys(device::SharedMemory() + number % kStages * kBytes) {}

  // Starts the block's copies of the values of a granule, unless it is -1, and the keys of the next
  // one; positions from `end` on become zeros.
  __device__ void Copy(const PagedCache<kHeadDim, T>& cache, int granule, int end) const {
    constexpr int kPieces = kHeadDim / 8;
#pragma unroll 2
    for (int i = device::ThreadPosition().x; i < kTileRows * kPieces; i += kThreads) {
      const int piece = i % kPieces;
      const int row = i / kPieces % kGranule;
      const int which = i / (kPieces * kGranule);
      const int position = (which == 0 ? granule + 1 : granule) * kGranule + row;
      char* const to = keys + which * kTileBytes + piece / 8 * kColumnBlockBytes +
                       device::SwizzledOffset(row, piece % 8);
      if (position < 0) continue;
      if (position < end) {
        device::CopyAsync16(to, cache.Row(which, position) + 16 * piece);
      } else {
        for (int j = 0; j < 4; ++j) reinterpret_cast<uint32_t*>(to)[j] = 0;
      }
    }
    device::CommitCopies();
  }

  // The next 16 dimensions of all keys, and all dimensions of the next 16 values.
  __device__ __forceinline__ uint64_t Keys(int step) const {
    return device::MatrixDescriptor(keys + step / 4 * kColumnBlockBytes + step % 4 * 32,
                                    kColumnBlockBytes);
  }
  __device__ __forceinline__ uint64_t Values(int step) const {
    return device::MatrixDescriptor(keys + kTileBytes + step * kStep * device::kBlockRowBytes,
                                    kColumnBlockBytes);
  }
};

template <typename T, int kHeadDim>
__global__ void PrefillHopperKernel(PagedPrefillArgs args) {
  using Stage = SwizzledStage<T, kHeadDim>;
  const PrefillVectors<kHeadDim> vectors(args, args.items[device::BlockPosition().x]);
  const int lane = device::ThreadPosition().x % 32;
  const int first = device::ThreadPosition().x / 32 * kQueryRows;  // vector of the warp
  const int lane_vectors[2] = {first + lane / 4, first + lane / 4 + 8};
  const auto cache = vectors.template Cache<T>();
  const int end = vectors.LastEnd(kWgmmaPrefillVectors);
  const int num_granules = (end + kGranule - 1) / kGranule;
  const int first_granule = vectors.FirstGranule();
  // Everything that was copied is there for the products of all threads.
  const auto await_stage = [] {
    device::WaitForCopies<0>();
    device::FenceSharedForProducts();
    device::SyncThreads();
  };
  uint32_t q[kHeadDim / 16][4];
  LoadQuery<kHeadDim>([&](int row) { return vectors.Query(first + row); }, q);
  GranuleScores scores;
  const auto start_scores = [&](const Stage& stage) {
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step) {
      device::GroupMma<T, /*kTransposed=*/false>(scores, q[step], stage.Keys(step), step > 0);
    }
    device::CommitGroupMmas();
  };

  uint32_t p[kGranule / kStep][4];
  const auto pack_weights = [&] {
#pragma unroll
    for (int step = 0; step < kGranule / kStep; ++step) {
      PackWeights<T, T>(scores, step, nullptr, p[step]);
    }
  };
  float sums[kHeadDim / 8][4];
  const auto start_sums = [&](const Stage& stage) {
#pragma unroll
    for (int step = 0; step < kGranule / kStep; ++step) {
      device::GroupMma<T, /*kTransposed=*/true>(sums, p[step], stage.Values(step), step > 0);
    }
    device::CommitGroupMmas();
  };
  float out[kHeadDim / 8][4] = {};
  RowStates total;
  const auto merge = [&](const RowStates& state) {
    const MergeScales scales[2] = {total.Merge(state, 0), total.Merge(state, 1)};
    device::WaitForGroupMmas<0>();
    device::KeepInPlace(sums);
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
      for (int i = 0; i < 4; ++i) {
        out[n][i] = device::MulAdd(out[n][i], scales[i / 2].keep, sums[n][i] * scales[i / 2].add);
      }
    }
  };

  const RowViews view = vectors.Views(lane_vectors[0], lane_vectors[1]);
  Stage(first_granule + 1).Copy(cache, first_granule - 1, end);
  await_stage();
  Stage(first_granule).Copy(cache, first_granule, end);
  device::KeepInPlace(q);
  device::FenceGroupMmas();
  start_scores(Stage(first_granule + 1));
  device::WaitForGroupMmas<0>();
  device::KeepInPlace(scores);
  RowStates state = GranuleWeights(view, first_granule * kGranule, scores);
  for (int granule = first_granule; granule + 1 < num_granules; ++granule) {
    // Nobody uses the other stage any more: its products have been waited for.
    await_stage();
    Stage(granule + 1).Copy(cache, granule + 1, end);
    pack_weights();
    device::KeepInPlace(p, q, scores);
    device::FenceGroupMmas();
    start_scores(Stage(granule));
    start_sums(Stage(granule));
    device::WaitForGroupMmas<1>();
    device::KeepInPlace(scores);
    const RowStates next = GranuleWeights(view, (granule + 1) * kGranule, scores);
    merge(state);
    state = next;
  }
  await_stage();
  pack_weights();
  device::KeepInPlace(p);
  device::FenceGroupMmas();
  start_sums(Stage(num_granules - 1));
  merge(state);
  for (int h = 0; h < 2; ++h) {
    // Made anew: registers are scarce above.
    PrefillVectors<kHeadDim>(args, args.items[device::BlockPosition().x])
        .template Store<T, kHeadDim>(lane_vectors[h], 0, h, out, total.sum[h]);
  }
}

}  // namespace

absl::Status CheckPrefillWgmma(int32_t head_dim, DType dtype, DType kv_dtype) {
  if (!device::HasWarpGroups()) {
    return absl::FailedPreconditionError("attention with wgmma needs a GPU of kind sm_90");
  }
  if (head_dim != 64 && head_dim != 80 && head_dim != 96 && head_dim != 128) {
    return absl::InvalidArgumentError(
        absl::StrCat("attention with wgmma: head_dim ", head_dim, ", not 64, 80, 96 or 128"));
  }
  if (kv_dtype != dtype) {
    return absl::InvalidArgumentError(
        "attention with wgmma: the cache is not of the activations' type");
  }
  return absl::OkStatus();
}

absl::Status PagedPrefillWgmma(device::Stream stream, const PagedPrefillArgs& args) {
  constexpr char kOp[] = "PagedPrefillWgmma";
  if (auto status = CheckAttention(kOp, args); !status.ok()) return status;
  if (args.num_items <= 0) {
    return absl::InvalidArgumentError(absl::StrCat(kOp, ": num_items is ", args.num_items));
  }
  if (auto status = CheckPrefillWgmma(args.head_dim, args.dtype, args.kv_dtype); !status.ok()) {
    return status;
  }
  const auto launch = [&]<typename T, int kHeadDim>() {
    return device::Launch(stream,
                          {args.num_items},
                          {kThreads},
                          SwizzledStage<T, kHeadDim>::kSharedBytes,
                          PrefillHopperKernel<T, kHeadDim>,
                          args);
  };
  const auto with_type = [&]<typename T>() {
    switch (args.head_dim) {
      case 64:
        return launch.template operator()<T, 64>();
      case 80:
        return launch.template operator()<T, 80>();
      case 96:
        return launch.template operator()<T, 96>();
      default:
        return launch.template operator()<T, 128>();
    }
  };
  if (args.dtype == DType::kBF16) return with_type.template operator()<device::Bf16>();
  if (args.dtype == DType::kF16) return with_type.template operator()<device::F16>();
  return absl::InvalidArgumentError(absl::StrCat(kOp, ": elements must be bf16 or f16"));
}

}  // namespace paceline::kernels
