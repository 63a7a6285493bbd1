#include "model/gguf/formats.h"
#include "model/gguf/half.h"

namespace paceline::model {

// 20 bytes: half scale d, half minimum m, then 16 bytes of nibbles q, elements 0-15 in the low and
// 16-31 in the high ones; x = d · q + m.
void DequantizeQ4_1(const uint8_t* src, int64_t num_blocks, float* dst) {
  for (; num_blocks > 0; --num_blocks, src += 20, dst += 32) {
    const float d = LoadHalf(src);
    const float m = LoadHalf(src + 2);
    for (int i = 0; i < 16; ++i) {
      dst[i] = d * static_cast<float>(src[4 + i] & 0xf) + m;
      dst[i + 16] = d * static_cast<float>(src[4 + i] >> 4) + m;
    }
  }
}

}  // namespace paceline::model
