// AVX-512 row functions of activations. Own -m flags: see kernels/README.md.
#include "kernels/activation/silu_mul_simd.h"
#include "kernels/simd/lanes_avx512.h"

namespace paceline::kernels {

const ActivationKernels kActivationAvx512 = {SiluMulRow<Avx512>};

}  // namespace paceline::kernels
