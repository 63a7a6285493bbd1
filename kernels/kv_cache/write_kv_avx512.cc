// AVX-512 row functions of the KV cache. Own -m flags: see kernels/README.md.
#include <immintrin.h>

#include "kernels/kv_cache/kv_kernels.h"
#include "kernels/simd/math_avx512.h"

namespace paceline::kernels {
namespace {

void ToHalf(const float* x, int64_t n, uint16_t* out) {
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = LaneMask(n - i);
    const __m256i half = _mm512_cvtps_ph(_mm512_maskz_loadu_ps(lanes, x + i),
                                         _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_mask_storeu_epi16(out + i, lanes, half);
  }
}

}  // namespace

const KvKernels kKvAvx512 = {ToHalf};

}  // namespace paceline::kernels
