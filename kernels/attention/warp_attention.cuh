// Attention of one warp: 16 query vectors, the rows of the tensor cores' left operand, against the
// paged cache. Decode and prefill are made of it, and so give a row the same bits:
//
// Positions are cut into granules of 64, counted from 0. A granule has a softmax of its own over
// all its scores (GranuleWeights), its weighted values are summed in four steps of 16 positions,
// and granules are merged in order of position (MergeGranule). What a row does not see has weight 0
// and changes nothing, so a step or a granule that no row sees may as well be left out.
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

constexpr int kTileRows = 2 * kGranule;

// 128 keys and values in shared memory, as the tensor cores want them. Which of them are keys, and
// of which positions, is the kernel's affair.
template <int kHeadDim>
struct KvTile {
  uint16_t* rows;       // [128][pitch]
  const float* scales;  // [128]; null: none

  __device__ KvTile From(int row) const {
    return {rows + row * kPitch<kHeadDim>, scales == nullptr ? nullptr : scales + row};
  }
};

// A row of a tile: K (which = 0) or V (1) of a position.
struct KvRow {
  int which;
  int position;
};

// How keys and values come into shared memory: a stage is what asynchronous copies bring. Rows of
// 16 bits are used where they arrive; 8 are made 16, exactly, in a buffer of its own.
template <typename T, int kHeadDim, typename Kv>
struct KvLoader {
  using Cache = PagedCache<kHeadDim, Kv>;
  // Of copies: registers are scarce where heads are large.
  static constexpr int kUnroll = kHeadDim > 128 ? 1 : 4;
  static constexpr int kTileBytes = kTileRows * kPitch<kHeadDim> * sizeof(uint16_t);
  static constexpr int kRawBytes = kTileRows * kHeadDim;
  static constexpr int kScaleBytes = kTileRows * sizeof(float);
  static constexpr int kStageBytes = kHasScales<Kv> ? kRawBytes + kScaleBytes : kTileBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes + (kHasScales<Kv> ? kTileBytes : 0);

  __device__ static char* Stage(int step) {
    return device::SharedMemory() + step % kStages * kStageBytes;
  }

  // Starts the block's copies of a tile, source_of(row) being what comes into row `row`: runs of 4
  // or more positions from a multiple of it. Rows of 16 bits from position `end` on become zeros;
  // those of 8 are always numbers.
  template <int kThreads, typename SourceOfRow>
  __device__ static void Copy(const Cache& cache, SourceOfRow source_of, int end, int step) {
    constexpr int kPieces = Cache::kRowBytes / 16;
    constexpr int kRowPitch = kHasScales<Kv> ? kHeadDim : 2 * kPitch<kHeadDim>;
    char* const stage = Stage(step);
#pragma unroll kUnroll
    for (int i = device::ThreadPosition().x; i < kTileRows * kPieces; i += kThreads) {
      const int piece = i % kPieces;
      const int row = i / kPieces;
      const KvRow source = source_of(row);
      char* const to = stage + row * kRowPitch + 16 * piece;
      if (source.position < end) {
        device::CopyAsync16(to, cache.Row(source.which, source.position) + 16 * piece);
      } else if constexpr (!kHasScales<Kv>) {
        for (int j = 0; j < 8; ++j) reinterpret_cast<uint16_t*>(to)[j] = 0;
      }
    }
    if constexpr (kHasScales<Kv>) {
#pragma unroll kUnroll
      for (int i = device::ThreadPosition().x; i < kTileRows / 4; i += kThreads) {
        const KvRow source = source_of(4 * i);
        if (source.position < end) {
          device::CopyAsync16(stage + kRawBytes + 16 * i,
                              cache.Scale(source.which, source.position));
        }
      }
    }
    device::CommitCopies();
  }

  // What Copy brought, once it is there for all threads of the block.
  template <int kThreads>
  __device__ static KvTile<kHeadDim> Get(int step) {
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

// Scores of a granule's positions with the lane's two rows, then their weights, as the tensor cores
// give them: element [n][2 h + i] is of row lane / 4 + 8 h and position 8 n + lane % 4 * 2 + i.
using GranuleScores = float[kGranule / 8][4];

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

// Of the lane's rows: the greatest score, in units of log 2, and the sum of weights.
struct RowStates {
  float max[2] = {kLowest, kLowest};
  float sum[2] = {0, 0};

  // Takes in the next granule's of row h; what was summed up and the granule's part are to be
  // brought together with what it gives.
  __device__ __forceinline__ MergeScales Merge(const RowStates& granule, int h) {
    const MergeScales scales = MergeGranule(max[h], granule.max[h]);
    sum[h] = device::MulAdd(sum[h], scales.keep, granule.sum[h] * scales.add);
    max[h] = scales.max;
    return scales;
  }
};

// Makes a product a score in units of log 2: product * `product`, or cap * tanh(that).
struct ScoreScale {
  float product;
  float cap;  // 0: none

  __device__ ScoreScale(float scale, float soft_cap)
      : product(soft_cap == 0 ? scale * kLog2E : scale / soft_cap), cap(soft_cap * kLog2E) {}
};

// The first position that is seen by a row whose own is the last before `end`.
__device__ __host__ __forceinline__ int FirstSeen(int end, int window) {
  return window > 0 && end > window ? end - window : 0;
}

// What the lane's rows see: half h's [begin[h], end[h]), the last of which is the row's own
// position, and what a score loses for each position that it lies before that.
struct RowViews {
  int begin[2];
  int end[2];
  float slope[2];
  ScoreScale scale;

  __device__ RowViews(const int (&ends)[2],
                      int window,
                      const float (&slopes)[2],
                      const ScoreScale& score_scale)
      : scale(score_scale) {
    for (int h = 0; h < 2; ++h) {
      begin[h] = FirstSeen(ends[h], window);
      end[h] = ends[h];
      slope[h] = slopes[h];
    }
  }
};

// Products of the queries with the first 16 keys of `keys`.
template <typename T, int kHeadDim, typename Kv>
__device__ __forceinline__ void AddKeys(const uint32_t (&q)[kHeadDim / 16][4],
                                        const KvTile<kHeadDim>& keys,
                                        float (&left)[4],
                                        float (&right)[4]) {
  const int lane = device::ThreadPosition().x % 32;
  const int matrix = lane / 8;
  for (int k = 0; k < kHeadDim / 16; ++k) {
    uint32_t b[4];
    device::LoadMatrix4(
        b, keys.rows + (matrix / 2 * 8 + lane % 8) * kPitch<kHeadDim> + k * 16 + matrix % 2 * 8);
    T::Mma(left, q[k], {b[0], b[1]});
    T::Mma(right, q[k], {b[2], b[3]});
  }
  if constexpr (kHasScales<Kv>) {
    for (int i = 0; i < 4; ++i) {
      left[i] *= keys.scales[lane % 4 * 2 + i % 2];
      right[i] *= keys.scales[8 + lane % 4 * 2 + i % 2];
    }
  }
}

// Makes products weights; `begin` is the granule's first position.
__device__ __forceinline__ RowStates GranuleWeights(const RowViews& view,
                                                    int begin,
                                                    GranuleScores& scores) {
  const int first = begin + device::ThreadPosition().x % 4 * 2;
  RowStates state;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    // change(score, position) for all scores of the row.
    const auto for_all = [&](auto change) {
#pragma unroll
      for (int n = 0; n < kGranule / 8; ++n) {
        change(scores[n][2 * h], n * 8 + first);
        change(scores[n][2 * h + 1], n * 8 + first + 1);
      }
    };
    if (view.scale.cap == 0) {
      for_all([&](float& score, int) { score *= view.scale.product; });
    } else {
      for_all([&](float& score, int) {
        score = view.scale.cap * device::Tanh(score * view.scale.product);
      });
    }
    if (view.slope[h] != 0) {
      for_all([&](float& score, int position) {
        score -= view.slope[h] * static_cast<float>(view.end[h] - 1 - position) * kLog2E;
      });
    }
    if (view.begin[h] > begin || view.end[h] < begin + kGranule) {
      for_all([&](float& score, int position) {
        if (position < view.begin[h] || position >= view.end[h]) score = kLowest;
      });
    }
    float most = kLowest;
    for_all([&](float score, int) { most = most > score ? most : score; });
    most = MaxOfRow(most);
    const float base = most == kLowest ? 0.0f : most;
    float sum = 0;
    for_all([&](float& score, int) {
      score = device::Exp2(score - base);
      sum += score;
    });
    state.max[h] = most;
    state.sum[h] = SumOfRow(sum);
  }
  return state;
}

// Weights of the granule's 16 positions from 16 `step` on as the left operand, times the scales of
// their values.
template <typename T, typename Kv>
__device__ __forceinline__ void PackWeights(const GranuleScores& weights,
                                            int step,
                                            const float* scales,
                                            uint32_t (&p)[4]) {
  const int first = device::ThreadPosition().x % 4 * 2;
  const auto weight = [&](int n, int j) {
    const float value = weights[2 * step + n][j];
    // There may be no scale where there is no weight.
    return kHasScales<Kv> && value != 0 ? value * scales[n * 8 + first + j % 2] : value;
  };
  for (int n = 0; n < 2; ++n) {
    for (int h = 0; h < 2; ++h) {
      p[2 * n + h] = device::Pack<T>(weight(n, 2 * h), weight(n, 2 * h + 1));
    }
  }
}

// Adds 16 dimensions, from `values` on, of 16 rows of a tile, weighted.
template <typename T, int kHeadDim>
__device__ __forceinline__ void AddValues(const uint32_t (&p)[4],
                                          const uint16_t* values,
                                          float (&left)[4],
                                          float (&right)[4]) {
  const int lane = device::ThreadPosition().x % 32;
  const int matrix = lane / 8;
  uint32_t b[4];
  device::LoadMatrix4Transposed(
      b, values + (matrix % 2 * 8 + lane % 8) * kPitch<kHeadDim> + matrix / 2 * 8);
  T::Mma(left, p, {b[0], b[1]});
  T::Mma(right, p, {b[2], b[3]});
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
