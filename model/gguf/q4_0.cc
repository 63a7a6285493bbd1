#include "model/gguf/formats.h"
#include "model/gguf/half.h"

namespace paceline::model {

// 18 bytes: half scale d, then 16 bytes of nibbles q, elements 0-15 in the low and 16-31 in the
// high ones; x = d · (q - 8).
void DequantizeQ4_0(const uint8_t* src, int64_t num_blocks, float* dst) {
  for (; num_blocks > 0; --num_blocks, src += 18, dst += 32) {
    const float d = LoadHalf(src);
    for (int i = 0; i < 16; ++i) {
      dst[i] = d * static_cast<float>((src[2 + i] & 0xf) - 8);
      dst[i + 16] = d * static_cast<float>((src[2 + i] >> 4) - 8);
    }
  }
}

}  // namespace paceline::model
