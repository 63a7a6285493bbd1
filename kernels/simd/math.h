// Functions of vectors of 16 floats, for V = Avx512 or Avx2 (lanes_*.h) with the same bits. Only
// for tuned files (kernels/README.md). Stateless.
#ifndef PACELINE_KERNELS_SIMD_MATH_H_
#define PACELINE_KERNELS_SIMD_MATH_H_

namespace paceline::kernels {
namespace {

// exp(x), within 2 ulp for normal results; 0 for -infinity, infinity above 88.7, NaN for NaN.
template <typename V>
typename V::F32 Exp(typename V::F32 x) {
  using F32 = typename V::F32;
  // The second operand of Min and Max is returned for NaN.
  x = V::Min(V::All(200.0f), V::Max(V::All(-200.0f), x));
  const F32 n = V::Round(x * V::All(1.44269504089f));
  F32 r = V::NegMulAdd(n, V::All(0.693359375f), x);
  r = V::NegMulAdd(n, V::All(-2.12194440e-4f), r);
  // Cephes' minimax polynomial of degree 6 on [-ln2/2, ln2/2].
  F32 p = V::All(1.9875691500e-4f);
  p = V::MulAdd(p, r, V::All(1.3981999507e-3f));
  p = V::MulAdd(p, r, V::All(8.3334519073e-3f));
  p = V::MulAdd(p, r, V::All(4.1665795894e-2f));
  p = V::MulAdd(p, r, V::All(1.6666665459e-1f));
  p = V::MulAdd(p, r, V::All(5.0000001201e-1f));
  p = V::MulAdd(p, r * r, r + V::All(1.0f));
  return V::TimesPowerOfTwo(p, n);
}

}  // namespace
}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_SIMD_MATH_H_
