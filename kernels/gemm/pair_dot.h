// Integer products for processors without VNNI, over the 16 lanes of V (Avx2, Avx512): pairs of
// products are added in 16 bits, which the widest sums just fit. Only for tuned files
// (kernels/README.md).
#ifndef PACELINE_KERNELS_GEMM_PAIR_DOT_H_
#define PACELINE_KERNELS_GEMM_PAIR_DOT_H_

namespace paceline::kernels {
namespace {

// 255 * 127 fits.
template <typename V>
typename V::I32 PairProducts(typename V::Bytes u, typename V::Bytes s) {
  return V::SumPairs(V::MulPairs(u, s));
}

// Eight times two products of a nibble: 8 * 2 * 15 * 127 = 30480 fits. A byte is two nibbles.
template <typename V, bool kNibbles>
struct PairDot {
  using I32 = typename V::I32;
  using Bytes = typename V::Bytes;
  void Start(I32 integer) {
    start = integer;
    sum = typename V::I16{};
  }
  void Add(Bytes u, Bytes s) { sum = sum + V::MulPairs(u, s); }
  I32 Sum() const { return start + V::SumPairs(sum); }
  I32 start;
  typename V::I16 sum;
};

template <typename V>
struct PairDot<V, false> {
  using I32 = typename V::I32;
  using Bytes = typename V::Bytes;
  void Start(I32 integer) {
    start = integer;
    low = high = typename V::I16{};
  }
  void Add(Bytes u, Bytes s) {
    low = low + V::MulPairs(V::And(u, 15), s);
    high = high + V::MulPairs(V::And(V::template ShiftRight16<4>(u), 15), s);
  }
  I32 Sum() const { return start + V::SumPairs(low) + V::SumPairs(high, 16); }
  I32 start;
  typename V::I16 low, high;
};

}  // namespace
}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_GEMM_PAIR_DOT_H_
