#include <cstring>

#include "model/gguf/formats.h"
#include "model/gguf/half.h"

namespace paceline::model {

void DequantizeF32(const uint8_t* src, int64_t num_blocks, float* dst) {
  if (num_blocks > 0) std::memcpy(dst, src, num_blocks * sizeof(float));
}

void DequantizeF16(const uint8_t* src, int64_t num_blocks, float* dst) {
  for (int64_t i = 0; i < num_blocks; ++i) dst[i] = LoadHalf(src + 2 * i);
}

void DequantizeBF16(const uint8_t* src, int64_t num_blocks, float* dst) {
  for (int64_t i = 0; i < num_blocks; ++i) {
    uint16_t bits;
    std::memcpy(&bits, src + 2 * i, sizeof(bits));
    dst[i] = BFloat16ToFloat(bits);
  }
}

}  // namespace paceline::model
