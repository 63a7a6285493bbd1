#include "model/gguf/formats.h"
#include "model/gguf/half.h"

namespace paceline::model {

// 34 bytes: half scale d, then 32 signed bytes q; x = d · q.
void DequantizeQ8_0(const uint8_t* src, int64_t num_blocks, float* dst) {
  for (; num_blocks > 0; --num_blocks, src += 34, dst += 32) {
    const float d = LoadHalf(src);
    for (int i = 0; i < 32; ++i) dst[i] = d * static_cast<int8_t>(src[2 + i]);
  }
}

}  // namespace paceline::model
