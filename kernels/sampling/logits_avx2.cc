// AVX2 passes over logits. Own -m flags: see kernels/README.md.
#include "kernels/sampling/logits_simd.h"
#include "kernels/simd/lanes_avx2.h"

namespace paceline::kernels {

const LogitsKernels kLogitsAvx2 = {
    Max<Avx2>, Find<Avx2>, SumExp<Avx2>, Collect<Avx2>, CountGreater<Avx2>};

}  // namespace paceline::kernels
