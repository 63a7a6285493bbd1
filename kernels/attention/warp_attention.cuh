// Attention of one warp: 16 query vectors, the rows of the tensor cores' left operand, against the
// paged cache. Decode and prefill are made of it, and so give a row the same bits:
//
// Positions are cut into granules of 64, counted from 0. A granule is taken in by four steps of 16
// positions with a running softmax of its own (Granule), and granules are merged in order of
// position (MergeGranule). What a row does not see has weight 0 and changes nothing, so a granule
// that no row sees may as well be left out.
#ifndef PACELINE_KERNELS_ATTENTION_WARP_ATTENTION_CUH_
#define PACELINE_KERNELS_ATTENTION_WARP_ATTENTION_CUH_

#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/device/element.cuh"

namespace paceline::kernels {

constexpr int kGranule = 64;  // positions
constexpr int kStep = 16;     // positions
constexpr int kQueryRows = 16;
constexpr int kStages = 2;
constexpr float kLog2E = 1.44269504f;
constexpr float kLowest = -INFINITY;

// Elements of a row of K or V in shared memory: padded, so that the eight rows of a matrix lie in
// different banks.
template <int kHeadDim>
constexpr int kPitch = kHeadDim + 8;

template <typename Kv>
constexpr bool kHasScales = sizeof(typename Kv::Bits) == 1;

// Where K (which = 0) or V (1) of a position lies in the cache (paged_decode_device.h).
template <int kHeadDim, typename Kv>
struct PagedCache {
  static constexpr int kRowBytes = kHeadDim * sizeof(typename Kv::Bits);
  static constexpr int kScaleBytes = kHasScales<Kv> ? sizeof(float) : 0;  // of a row

  const void* kv;
  const int32_t* pages;  // of the sequence
  int32_t page_size;
  int32_t num_kv_heads;
  int32_t kv_head;

  // A head's part of the page of this position.
  __device__ const char* Head(int which, int position) const {
    const int64_t page = pages[position / page_size];
    const int64_t head = (page * num_kv_heads + kv_head) * 2 + which;
    return static_cast<const char*>(kv) + head * page_size * (kRowBytes + kScaleBytes);
  }
  __device__ const char* Row(int which, int position) const {
    return Head(which, position) + position % page_size * kRowBytes;
  }
  __device__ const char* Scale(int which, int position) const {
    return Head(which, position) + page_size * kRowBytes + position % page_size * kScaleBytes;
  }
};

// Keys and values of 64 positions in shared memory, as the tensor cores want them.
struct KvTile {
  uint16_t* keys;       // [64][pitch], values behind them
  const float* scales;  // [2][64], of keys and of values; null: none
};

// How keys and values come into shared memory: a stage is what asynchronous copies bring. Rows of
// 16 bits are used where they arrive; 8 are made 16, exactly, in a buffer of its own.
template <typename T, int kHeadDim, typename Kv>
struct KvLoader {
  using Cache = PagedCache<kHeadDim, Kv>;
  // Of copies: registers are scarce where heads are large.
  static constexpr int kUnroll = kHeadDim > 128 ? 1 : 4;
  static constexpr int kTileBytes = 2 * kGranule * kPitch<kHeadDim> * sizeof(uint16_t);
  static constexpr int kRawBytes = 2 * kGranule * kHeadDim;
  static constexpr int kScaleBytes = 2 * kGranule * sizeof(float);
  static constexpr int kStageBytes = kHasScales<Kv> ? kRawBytes + kScaleBytes : kTileBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes + (kHasScales<Kv> ? kTileBytes : 0);

  __device__ static char* Stage(int step) {
    return device::SharedMemory() + step % kStages * kStageBytes;
  }

  // Starts the block's copies of 64 positions, position_of(row) being that of row `row`: runs of 16
  // or more from a multiple of it. Rows of 16 bits from `end` on become zeros; those of
  // 8 are always numbers.
  template <int kThreads, typename PositionOfRow>
  __device__ static void Copy(const Cache& cache, PositionOfRow position_of, int end, int step) {
    constexpr int kPieces = Cache::kRowBytes / 16;
    constexpr int kRowPitch = kHasScales<Kv> ? kHeadDim : 2 * kPitch<kHeadDim>;
    char* const stage = Stage(step);
#pragma unroll kUnroll
    for (int i = device::ThreadPosition().x; i < 2 * kGranule * kPieces; i += kThreads) {
      const int piece = i % kPieces;
      const int row = i / kPieces % kGranule;
      const int which = i / (kPieces * kGranule);
      const int position = position_of(row);
      char* const to = stage + (which * kGranule + row) * kRowPitch + 16 * piece;
      if (position < end) {
        device::CopyAsync16(to, cache.Row(which, position) + 16 * piece);
      } else if constexpr (!kHasScales<Kv>) {
        for (int j = 0; j < 8; ++j) reinterpret_cast<uint16_t*>(to)[j] = 0;
      }
    }
    if constexpr (kHasScales<Kv>) {
#pragma unroll kUnroll
      for (int i = device::ThreadPosition().x; i < 2 * kGranule / 4; i += kThreads) {
        const int which = i / (kGranule / 4);
        const int position = position_of(i % (kGranule / 4) * 4);
        if (position < end) {
          device::CopyAsync16(stage + kRawBytes + 16 * i, cache.Scale(which, position));
        }
      }
    }
    device::CommitCopies();
  }

  // What Copy brought, once it is there for all threads of the block.
  template <int kThreads>
  __device__ static KvTile Get(int step) {
    char* const stage = Stage(step);
    if constexpr (!kHasScales<Kv>) {
      return {reinterpret_cast<uint16_t*>(stage), nullptr};
    } else {
      auto* const tile =
          reinterpret_cast<uint16_t*>(device::SharedMemory() + kStages * kStageBytes);
#pragma unroll kUnroll
      for (int i = device::ThreadPosition().x; i < kRawBytes / 4; i += kThreads) {
        uint16_t* const to = tile + 4 * i / kHeadDim * kPitch<kHeadDim> + 4 * i % kHeadDim;
        Kv::template Unpack<T>(reinterpret_cast<const uint32_t*>(stage)[i],
                               reinterpret_cast<uint32_t*>(to));
      }
      device::SyncThreads();
      return {tile, reinterpret_cast<const float*>(stage + kRawBytes)};
    }
  }
};

// Query vectors as the left operand; row_of(row) points to one, or is null for none (zeros). A lane
// holds rows lane / 4 and that + 8.
template <int kHeadDim, typename RowOf>
__device__ __forceinline__ void LoadQuery(RowOf row_of, uint32_t (&fragments)[kHeadDim / 16][4]) {
  const int lane = device::ThreadPosition().x % 32;
  for (int half = 0; half < 2; ++half) {
    const uint16_t* const q = row_of(lane / 4 + 8 * half);
    for (int k = 0; k < kHeadDim / 16; ++k) {
      for (int side = 0; side < 2; ++side) {
        const int column = k * 16 + lane % 4 * 2 + side * 8;
        fragments[k][2 * side + half] =
            q == nullptr ? 0 : q[column] | static_cast<uint32_t>(q[column + 1]) << 16;
      }
    }
  }
}

// Over the four lanes that share a row.
__device__ __forceinline__ float MaxOfRow(float value) {
  for (int mask = 1; mask < 4; mask *= 2) {
    const float other = device::ShuffleXor(value, mask);
    value = value > other ? value : other;
  }
  return value;
}
__device__ __forceinline__ float SumOfRow(float value) {
  for (int mask = 1; mask < 4; mask *= 2) value += device::ShuffleXor(value, mask);
  return value;
}

// Weighted sums of values (not yet divided by the sum of weights), or of some of their dimensions,
// maximum score and sum of weights of the lane's two rows; half h is row lane / 4 + 8 h. Scores are
// in units of log 2.
template <int kWidth>
struct RowStates {
  float out[kWidth / 8][4];
  float max[2];
  float sum[2];

  __device__ void Clear() {
    for (auto& four : out) {
      for (float& value : four) value = 0;
    }
    for (int h = 0; h < 2; ++h) {
      max[h] = kLowest;
      sum[h] = 0;
    }
  }
};

// A granule merged into what precedes it: value and sum become MulAdd(own, keep, add * the
// granule's).
struct MergeScales {
  float max;
  float keep;
  float add;
};
__device__ __forceinline__ MergeScales MergeGranule(float max, float granule_max) {
  const float most = granule_max > max ? granule_max : max;
  // Nothing seen so far: any finite maximum will do.
  const float base = most == kLowest ? 0.0f : most;
  return {most, device::Exp2(max - base), device::Exp2(granule_max - base)};
}

// Which of a step's positions, counted from its first, and what becomes of scores.
struct StepView {
  int begin[2];  // each half's rows see [begin[h], end[h]) of the 16
  int end[2];
  float scale;
  float soft_cap;  // 0: none
  int own[2];      // positions of each half's rows themselves, and what a score loses for each
  float slope[2];  // position that it lies before them

  // In units of log 2.
  __device__ __forceinline__ float Score(float product, int h, int position) const {
    if (position < begin[h] || position >= end[h]) return kLowest;
    const float score = soft_cap == 0
                            ? product * (scale * kLog2E)
                            : soft_cap * device::Tanh(product * scale / soft_cap) * kLog2E;
    if (slope[h] == 0) return score;
    return score - slope[h] * static_cast<float>(own[h] - position) * kLog2E;
  }
};

// Takes in 16 positions of a tile, from row `first` on; of their values the kWidth dimensions from
// `first_dim` on.
template <typename T, int kHeadDim, typename Kv, int kWidth>
__device__ __forceinline__ void AddStep(const uint32_t (&q)[kHeadDim / 16][4],
                                        const KvTile& tile,
                                        int first,
                                        int first_dim,
                                        const StepView& view,
                                        RowStates<kWidth>& state) {
  const int lane = device::ThreadPosition().x % 32;
  const int matrix = lane / 8;
  const uint16_t* const keys = tile.keys + first * kPitch<kHeadDim>;
  const uint16_t* const values = keys + kGranule * kPitch<kHeadDim> + first_dim;
  float scores[2][4] = {};
  for (int k = 0; k < kHeadDim / 16; ++k) {
    uint32_t b[4];
    device::LoadMatrix4(
        b, keys + (matrix / 2 * 8 + lane % 8) * kPitch<kHeadDim> + k * 16 + matrix % 2 * 8);
    T::Mma(scores[0], q[k], {b[0], b[1]});
    T::Mma(scores[1], q[k], {b[2], b[3]});
  }
  float rescale[2];
  for (int h = 0; h < 2; ++h) {
    float most = state.max[h];
    for (int n = 0; n < 2; ++n) {
      for (int i = 0; i < 2; ++i) {
        const int position = n * 8 + lane % 4 * 2 + i;
        float& score = scores[n][2 * h + i];
        if constexpr (kHasScales<Kv>) score *= tile.scales[first + position];
        score = view.Score(score, h, position);
        most = most > score ? most : score;
      }
    }
    most = MaxOfRow(most);
    const float base = most == kLowest ? 0.0f : most;
    rescale[h] = device::Exp2(state.max[h] - base);
    float added = 0;
    for (int n = 0; n < 2; ++n) {
      for (int i = 0; i < 2; ++i) {
        float& score = scores[n][2 * h + i];
        score = device::Exp2(score - base);
        added += score;
        // There may be no scale where there is no weight.
        if (kHasScales<Kv> && score != 0) {
          score *= tile.scales[kGranule + first + n * 8 + lane % 4 * 2 + i];
        }
      }
    }
    state.max[h] = most;
    state.sum[h] = device::MulAdd(state.sum[h], rescale[h], SumOfRow(added));
  }
  const uint32_t p[4] = {device::Pack<T>(scores[0][0], scores[0][1]),
                         device::Pack<T>(scores[0][2], scores[0][3]),
                         device::Pack<T>(scores[1][0], scores[1][1]),
                         device::Pack<T>(scores[1][2], scores[1][3])};
  for (int d = 0; d < kWidth / 16; ++d) {
    uint32_t b[4];
    device::LoadMatrix4Transposed(
        b, values + (matrix % 2 * 8 + lane % 8) * kPitch<kHeadDim> + d * 16 + matrix / 2 * 8);
    for (int n = 0; n < 2; ++n) {
      float(&o)[4] = state.out[2 * d + n];
      for (int i = 0; i < 4; ++i) o[i] *= rescale[i / 2];
      T::Mma(o, p, {b[2 * n], b[2 * n + 1]});
    }
  }
}

// ---- On the host; for the arguments of decode and prefill, which name the same things alike.

template <typename Args>
absl::Status CheckAttention(const char* op, const Args& args) {
  const auto invalid = [&](const char* what, int64_t value) {
    return absl::InvalidArgumentError(absl::StrCat(op, ": ", what, " is ", value));
  };
  const int32_t page_size = args.page_size;
  if (page_size < 8 || page_size > 256 || (page_size & (page_size - 1)) != 0) {
    return invalid("page_size", page_size);
  }
  if (args.num_kv_heads <= 0 || args.num_heads <= 0 || args.num_heads % args.num_kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(op, ": ", args.num_heads, " query heads on ", args.num_kv_heads, " KV heads"));
  }
  if (args.q_stride < int64_t{args.num_heads} * args.head_dim) {
    return invalid("q_stride", args.q_stride);
  }
  if (args.window < 0) return invalid("window", args.window);
  if (args.soft_cap < 0) return invalid("soft_cap", static_cast<int64_t>(args.soft_cap));
  return absl::OkStatus();
}

// Calls run.template operator()<T, kHeadDim, Kv>() for the types of vectors and cache.
template <typename Args, typename Run>
absl::Status ForAttentionTypes(const char* op, const Args& args, Run run) {
  const auto with_type = [&]<typename T, int kHeadDim>() {
    switch (args.kv_dtype) {
      case DType::kI8:
        return run.template operator()<T, kHeadDim, device::Int8>();
      case DType::kE4M3:
        return run.template operator()<T, kHeadDim, device::E4M3>();
      default:
        return run.template operator()<T, kHeadDim, T>();
    }
  };
  const auto with_head_dim = [&]<typename T>() -> absl::Status {
    switch (args.head_dim) {
      case 64:
        return with_type.template operator()<T, 64>();
      case 80:
        return with_type.template operator()<T, 80>();
      case 96:
        return with_type.template operator()<T, 96>();
      case 128:
        return with_type.template operator()<T, 128>();
      case 256:
        return with_type.template operator()<T, 256>();
    }
    return absl::InvalidArgumentError(
        absl::StrCat(op, ": head_dim ", args.head_dim, ", not 64, 80, 96, 128 or 256"));
  };
  if (args.kv_dtype != args.dtype && DTypeSize(args.kv_dtype) != 1) {
    return absl::InvalidArgumentError(absl::StrCat(op, ": a cache of another type"));
  }
  if (args.dtype == DType::kBF16) return with_head_dim.template operator()<device::Bf16>();
  if (args.dtype == DType::kF16) return with_head_dim.template operator()<device::F16>();
  return absl::InvalidArgumentError(absl::StrCat(op, ": elements must be bf16 or f16"));
}

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_ATTENTION_WARP_ATTENTION_CUH_
