// The element types a GGUF tensor may have: their ids in the file, block layout, and the scalar
// reference that turns their bytes into float32. Stateless; any thread.
//
// To add a type: one enumerator, one <format>.cc with its dequantizer, one row in tensor_type.cc.
#ifndef PACELINE_MODEL_GGUF_TENSOR_TYPE_H_
#define PACELINE_MODEL_GGUF_TENSOR_TYPE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/types/span.h"

namespace paceline::model {

// The values are the ids in the file.
enum class TensorType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ8_0 = 8,
  kBF16 = 30,
};

struct TensorTypeInfo {
  TensorType type;
  std::string_view name;  // as people write it: "Q4_1"
  int64_t block_size;     // elements per block; rows are whole blocks
  int64_t block_bytes;
  // Writes `num_blocks` · block_size floats to `dst`; `src` may have any alignment.
  void (*dequantize)(const uint8_t* src, int64_t num_blocks, float* dst);
};

// Every supported type, in the order of the ids.
absl::Span<const TensorTypeInfo> TensorTypes();

// The supported type with this id in the file, if there is one.
const TensorTypeInfo* FindTensorType(uint32_t gguf_id);

const TensorTypeInfo& GetTensorTypeInfo(TensorType type);
std::string_view TensorTypeName(TensorType type);

// How an error names a type id: "12 (Q4_K)", or "77" where the format knows no such type.
std::string DescribeTensorTypeId(uint32_t gguf_id);

// Bytes of `num_elements` elements; nullopt when they are not whole blocks or the product
// overflows. REQUIRES: num_elements >= 0.
std::optional<int64_t> TensorBytes(TensorType type, int64_t num_elements);

// Converts `num_elements` elements at `src` (any alignment) to float32.
// REQUIRES: num_elements is a multiple of the type's block size.
void Dequantize(TensorType type, const uint8_t* src, int64_t num_elements, float* dst);

}  // namespace paceline::model

#endif  // PACELINE_MODEL_GGUF_TENSOR_TYPE_H_
