// The dequantizers, one per tensor type, that the table in tensor_type.cc joins; callers use
// Dequantize. `src` may have any alignment, numbers in it are little-endian. Stateless; any thread.
#ifndef PACELINE_MODEL_GGUF_FORMATS_H_
#define PACELINE_MODEL_GGUF_FORMATS_H_

#include <cstdint>

namespace paceline::model {

// Plain floats: a block is one element.
void DequantizeF32(const uint8_t* src, int64_t num_blocks, float* dst);
void DequantizeF16(const uint8_t* src, int64_t num_blocks, float* dst);
void DequantizeBF16(const uint8_t* src, int64_t num_blocks, float* dst);

// Blocks of 32 elements.
void DequantizeQ8_0(const uint8_t* src, int64_t num_blocks, float* dst);
void DequantizeQ4_0(const uint8_t* src, int64_t num_blocks, float* dst);
void DequantizeQ4_1(const uint8_t* src, int64_t num_blocks, float* dst);

}  // namespace paceline::model

#endif  // PACELINE_MODEL_GGUF_FORMATS_H_
