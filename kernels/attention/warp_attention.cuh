// Attention of one warp: 16 query vectors, the rows of the tensor cores' left operand, against the
// paged cache. Decode and prefill are made of it, and so give a row the same bits:
//
// Positions are cut into granules of 64, counted from 0. A granule is taken in by four steps of 16
// positions with a running softmax of its own (Granule), and granules are merged in order of
// position (MergeGranule). What a row does not see has weight 0 and changes nothing.
#ifndef PACELINE_KERNELS_ATTENTION_WARP_ATTENTION_CUH_
#define PACELINE_KERNELS_ATTENTION_WARP_ATTENTION_CUH_

#include <cmath>

#include "kernels/device/element.cuh"

namespace paceline::kernels {

constexpr int kGranule = 64;  // positions
constexpr int kStep = 16;     // positions
constexpr int kQueryRows = 16;
constexpr float kLog2E = 1.44269504f;
constexpr float kLowest = -INFINITY;

// Elements of a row of K or V in shared memory: padded, so that the eight rows of a matrix lie in
// different banks.
template <int kHeadDim>
constexpr int kPitch = kHeadDim + 8;

// Where K (which = 0) or V (1) of a position lies in the cache.
struct PagedCache {
  const void* kv;
  const int32_t* pages;  // of the sequence
  int32_t page_size;
  int32_t num_kv_heads;
  int32_t kv_head;
  int32_t head_dim;

  __device__ const uint16_t* Row(int which, int position) const {
    const int64_t page = pages[position / page_size];
    const int64_t head = (page * num_kv_heads + kv_head) * 2 + which;
    return static_cast<const uint16_t*>(kv) + (head * page_size + position % page_size) * head_dim;
  }
};

// Starts the block's copies of K and V of 64 positions, first(row) being that of row `row`, into
// stage [2][64][pitch]; those from `end` on become zeros.
template <int kHeadDim, int kThreads, typename PositionOfRow>
__device__ __forceinline__ void CopyTile(const PagedCache& cache,
                                         PositionOfRow position_of,
                                         int end,
                                         uint16_t* stage) {
  constexpr int kPieces = kHeadDim / 8;  // of 16 bytes, in a row
  for (int i = device::ThreadPosition().x; i < 2 * kGranule * kPieces; i += kThreads) {
    const int piece = i % kPieces;
    const int row = i / kPieces % kGranule;
    const int which = i / (kPieces * kGranule);
    const int position = position_of(row);
    uint16_t* const to = stage + (which * kGranule + row) * kPitch<kHeadDim> + 8 * piece;
    if (position < end) {
      device::CopyAsync16(to, cache.Row(which, position) + 8 * piece);
    } else {
      for (int j = 0; j < 8; ++j) to[j] = 0;
    }
  }
  device::CommitCopies();
}

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

// Weighted sums of values (not yet divided by the sum of weights), maximum score and sum of weights
// of the lane's two rows; half h is row lane / 4 + 8 h. Scores are in units of log 2.
template <int kHeadDim>
struct RowStates {
  float out[kHeadDim / 8][4];
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

// Takes in 16 positions, of which each half's rows see the first visible[h].
template <typename T, int kHeadDim>
__device__ __forceinline__ void AddStep(const uint32_t (&q)[kHeadDim / 16][4],
                                        const uint16_t* keys,
                                        const uint16_t* values,
                                        const int (&visible)[2],
                                        float scale_log2,
                                        RowStates<kHeadDim>& state) {
  const int lane = device::ThreadPosition().x % 32;
  const int matrix = lane / 8;
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
        float& score = scores[n][2 * h + i];
        score = n * 8 + lane % 4 * 2 + i < visible[h] ? score * scale_log2 : kLowest;
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
      }
    }
    state.max[h] = most;
    state.sum[h] = device::MulAdd(state.sum[h], rescale[h], SumOfRow(added));
  }
  const uint32_t p[4] = {device::Pack<T>(scores[0][0], scores[0][1]),
                         device::Pack<T>(scores[0][2], scores[0][3]),
                         device::Pack<T>(scores[1][0], scores[1][1]),
                         device::Pack<T>(scores[1][2], scores[1][3])};
  for (int d = 0; d < kHeadDim / 16; ++d) {
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

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_ATTENTION_WARP_ATTENTION_CUH_
