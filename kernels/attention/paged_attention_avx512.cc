// AVX-512 kernels of paged attention. Own -m flags: see kernels/README.md.
#include "kernels/attention/paged_attention_simd.h"
#include "kernels/simd/lanes_avx512.h"

namespace paceline::kernels {

const AttentionKernels kAttentionAvx512 = {Chunk<Avx512>, Merge<Avx512>, Finish<Avx512>};

}  // namespace paceline::kernels
