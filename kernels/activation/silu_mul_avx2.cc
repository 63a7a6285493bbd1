// AVX2 row functions of activations. Own -m flags: see kernels/README.md.
#include "kernels/activation/silu_mul_simd.h"
#include "kernels/simd/lanes_avx2.h"

namespace paceline::kernels {

const ActivationKernels kActivationAvx2 = {SiluMulRow<Avx2>};

}  // namespace paceline::kernels
