// Matmul of bf16 weights and activations rounded to bf16, over 16 lanes, one a row of w. Only for
// tuned files (kernels/README.md).
//
// V is Avx2 or Avx512 with what bf16_<isa>.cc adds to it:
//   kPairGroups, kPairRows: groups of 16 rows of w and rows of x per tile
//   Pair, PairMulAdd(w, x, acc): fma(w0, x0, fma(w1, x1, acc)), lanes of w being pairs of bf16
// This order is VDPBF16PS's, which moreover takes subnormal numbers for 0; inputs hold none. So all
// sets give the same bits, but for sums below 1.2e-38.
#ifndef PACELINE_KERNELS_GEMM_BF16_SIMD_H_
#define PACELINE_KERNELS_GEMM_BF16_SIMD_H_

#include "kernels/gemm/matmul_simd.h"

namespace paceline::kernels {
namespace {

template <typename Lanes>
struct WeightPairs {
  using V = Lanes;
};

template <typename Format, int G, int M>
struct PairTile {
  using V = typename Format::V;
  static int64_t Steps(int64_t k) { return k / 2; }
  static void Run(const GemmArgs& args, int64_t group, int64_t first, Prefetcher<G> prefetcher) {
    const auto* const w = static_cast<const uint8_t*>(args.w) + group * args.group_bytes;
    const auto* const x = static_cast<const typename V::Pair*>(args.x) + first * args.x_stride;
    typename V::F32 acc[G][M];
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) acc[g][i] = V::All(0);
    }
    for (int64_t j = 0; j < args.k / 2; ++j) {
      prefetcher.Step(64);
      typename V::Bytes pairs[G];
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) pairs[g] = V::LoadBytes(w + g * args.group_bytes + 64 * j);
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) {
        const typename V::Pair two = x[i * args.x_stride + j];
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) acc[g][i] = V::PairMulAdd(pairs[g], two, acc[g][i]);
      }
    }
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) StoreOutputs<V>(args, (group + g) * kPackRows, first, M, acc[g]);
  }
};

template <typename V>
void PairKernel(const GemmArgs& args) {
  Gemm<PairTile, WeightPairs<V>, V::kPairGroups, V::kPairRows>(
      args, args.x_stride * static_cast<int64_t>(sizeof(typename V::Pair)));
}

}  // namespace
}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_GEMM_BF16_SIMD_H_
