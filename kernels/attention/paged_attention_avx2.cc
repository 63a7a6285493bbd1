// AVX2 kernels of paged attention. Own -m flags: see kernels/README.md.
#include "kernels/attention/paged_attention_simd.h"
#include "kernels/simd/lanes_avx2.h"

namespace paceline::kernels {

const AttentionKernels kAttentionAvx2 = {Chunk<Avx2>, Merge<Avx2>, Finish<Avx2>};

}  // namespace paceline::kernels
