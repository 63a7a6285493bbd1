// AVX-512 passes over logits. Own -m flags: see kernels/README.md.
#include "kernels/sampling/logits_simd.h"
#include "kernels/simd/lanes_avx512.h"

namespace paceline::kernels {

const LogitsKernels kLogitsAvx512 = {
    Max<Avx512>, Find<Avx512>, SumExp<Avx512>, Collect<Avx512>, CountGreater<Avx512>};

}  // namespace paceline::kernels
