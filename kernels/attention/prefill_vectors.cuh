// What the prefill kernels have in common: which query vectors an item has, what they see, and
// where they and their results lie. A vector is counted from the item's first.
#ifndef PACELINE_KERNELS_ATTENTION_PREFILL_VECTORS_CUH_
#define PACELINE_KERNELS_ATTENTION_PREFILL_VECTORS_CUH_

#include "kernels/attention/paged_prefill_device.h"
#include "kernels/attention/warp_attention.cuh"

namespace paceline::kernels {

template <int kHeadDim>
struct PrefillVectors {
  const PagedPrefillArgs& args;
  PrefillItem item;
  PrefillSequence sequence;
  int group;
  int count;  // of the sequence

  __device__ PrefillVectors(const PagedPrefillArgs& a, const PrefillItem& i)
      : args(a), item(i), sequence(a.sequences[i.sequence]) {
    group = args.num_heads / args.num_kv_heads;
    count = sequence.num_rows * group;
  }

  template <typename Kv>
  __device__ PagedCache<kHeadDim, Kv> Cache() const {
    return {args.kv,
            args.page_table + int64_t{item.sequence} * args.max_pages,
            args.page_size,
            args.num_kv_heads,
            item.kv_head};
  }
  __device__ bool Exists(int vector) const { return item.first + vector < count; }
  // Of a matrix whose rows are `stride` elements apart.
  __device__ int64_t Offset(int vector, int64_t stride) const {
    const int64_t token = sequence.first_row + (item.first + vector) / group;
    return token * stride + Head(vector) * kHeadDim;
  }
  __device__ const uint16_t* Query(int vector) const {
    return Exists(vector) ? static_cast<const uint16_t*>(args.q) + Offset(vector, args.q_stride)
                          : nullptr;
  }
  // The end of the positions that it sees.
  __device__ int End(int vector) const {
    return sequence.context_before + (item.first + vector) / group + 1;
  }
  // The same for the last of `num_vectors`.
  __device__ int LastEnd(int num_vectors) const {
    return End(Exists(num_vectors - 1) ? num_vectors - 1 : count - 1 - item.first);
  }
  __device__ int FirstGranule() const { return FirstSeen(End(0), args.window) / kGranule; }
  // Of two vectors, those of the lane.
  __device__ RowViews Views(int vector, int other) const {
    return {{End(vector), End(other)},
            args.window,
            {Slope(vector), Slope(other)},
            {args.scale, args.soft_cap}};
  }
  // Half h of the lane's results, of this vector, its kWidth dimensions from `first_dim` on.
  template <typename T, int kWidth>
  __device__ __forceinline__ void Store(
      int vector, int first_dim, int h, const float (&sums)[kWidth / 8][4], float sum) const {
    if (!Exists(vector)) return;
    const int lane = device::ThreadPosition().x % 32;
    const float share = 1 / sum;
    uint16_t* const to = static_cast<uint16_t*>(args.out) +
                         Offset(vector, int64_t{args.num_heads} * kHeadDim) + first_dim;
    for (int n = 0; n < kWidth / 8; ++n) {
      for (int i = 0; i < 2; ++i) {
        to[n * 8 + lane % 4 * 2 + i] = T::FromFloat(sums[n][2 * h + i] * share);
      }
    }
  }

 private:
  __device__ int Head(int vector) const {
    return item.kv_head * group + (item.first + vector) % group;
  }
  __device__ float Slope(int vector) const {
    return args.slopes != nullptr ? args.slopes[Head(vector)] : 0.0f;
  }
};

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_ATTENTION_PREFILL_VECTORS_CUH_
