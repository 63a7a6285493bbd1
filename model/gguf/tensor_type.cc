#include "model/gguf/tensor_type.h"

#include "model/gguf/formats.h"
#include "proto/support/log.h"

namespace paceline::model {
namespace {

constexpr TensorTypeInfo kTensorTypes[] = {
    {TensorType::kF32, "F32", 1, 4, DequantizeF32},
    {TensorType::kF16, "F16", 1, 2, DequantizeF16},
    {TensorType::kQ4_0, "Q4_0", 32, 18, DequantizeQ4_0},
    {TensorType::kQ4_1, "Q4_1", 32, 20, DequantizeQ4_1},
    {TensorType::kQ8_0, "Q8_0", 32, 34, DequantizeQ8_0},
    {TensorType::kBF16, "BF16", 1, 2, DequantizeBF16},
};

// Names of every id the format has given out, so that an error can say what a file holds.
constexpr std::string_view kNamesById[] = {
    "F32",    "F16",   "Q4_0",  "Q4_1",   "",      "",      "Q5_0",    "Q5_1",   "Q8_0",    "Q8_1",
    "Q2_K",   "Q3_K",  "Q4_K",  "Q5_K",   "Q6_K",  "Q8_K",  "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S",
    "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8",    "I16",   "I32",     "I64",    "F64",     "IQ1_M",
    "BF16",   "",      "",      "",       "TQ1_0", "TQ2_0", "",        "",       "",        "MXFP4",
};

}  // namespace

absl::Span<const TensorTypeInfo> TensorTypes() { return kTensorTypes; }

const TensorTypeInfo* FindTensorType(uint32_t gguf_id) {
  for (const TensorTypeInfo& info : kTensorTypes) {
    if (static_cast<uint32_t>(info.type) == gguf_id) return &info;
  }
  return nullptr;
}

const TensorTypeInfo& GetTensorTypeInfo(TensorType type) {
  const TensorTypeInfo* info = FindTensorType(static_cast<uint32_t>(type));
  PACELINE_CHECK(info != nullptr, "tensor type without a row in the table");
  return *info;
}

std::string_view TensorTypeName(TensorType type) { return GetTensorTypeInfo(type).name; }

std::string DescribeTensorTypeId(uint32_t gguf_id) {
  if (gguf_id < std::size(kNamesById) && !kNamesById[gguf_id].empty()) {
    return std::to_string(gguf_id).append(" (").append(kNamesById[gguf_id]).append(")");
  }
  return std::to_string(gguf_id);
}

std::optional<int64_t> TensorBytes(TensorType type, int64_t num_elements) {
  const TensorTypeInfo& info = GetTensorTypeInfo(type);
  int64_t bytes = 0;
  if (num_elements % info.block_size != 0 ||
      __builtin_mul_overflow(num_elements / info.block_size, info.block_bytes, &bytes)) {
    return std::nullopt;
  }
  return bytes;
}

void Dequantize(TensorType type, const uint8_t* src, int64_t num_elements, float* dst) {
  const TensorTypeInfo& info = GetTensorTypeInfo(type);
  PACELINE_CHECK(num_elements % info.block_size == 0, "dequantize: not whole blocks");
  info.dequantize(src, num_elements / info.block_size, dst);
}

}  // namespace paceline::model
