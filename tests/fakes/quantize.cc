#include "tests/fakes/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "model/gguf/half.h"
#include "proto/support/log.h"

namespace paceline::model {
namespace {

void Append16(std::string& out, uint16_t bits) {
  out.push_back(static_cast<char>(bits & 0xff));
  out.push_back(static_cast<char>(bits >> 8));
}

// Two quantised elements a byte: element i in the low nibble, element i + 16 in the high one.
void AppendNibbles(std::string& out, const int (&q)[32]) {
  for (int i = 0; i < 16; ++i) out.push_back(static_cast<char>(q[i] | q[i + 16] << 4));
}

void QuantizeQ8_0(const float* x, std::string& out) {
  float largest = 0;
  for (int i = 0; i < 32; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float d = largest / 127;
  Append16(out, FloatToHalf(d));
  for (int i = 0; i < 32; ++i) {
    out.push_back(static_cast<char>(d == 0 ? 0 : static_cast<int>(std::round(x[i] / d))));
  }
}

void QuantizeQ4_0(const float* x, std::string& out) {
  float extreme = 0;  // the element farthest from zero becomes -8
  for (int i = 0; i < 32; ++i) {
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  }
  const float d = extreme / -8;
  Append16(out, FloatToHalf(d));
  int q[32];
  for (int i = 0; i < 32; ++i) {
    q[i] = d == 0 ? 8 : std::clamp(static_cast<int>(x[i] / d + 8.5f), 0, 15);
  }
  AppendNibbles(out, q);
}

void QuantizeQ4_1(const float* x, std::string& out) {
  const auto [low, high] = std::minmax_element(x, x + 32);
  const float d = (*high - *low) / 15;
  Append16(out, FloatToHalf(d));
  Append16(out, FloatToHalf(*low));
  int q[32];
  for (int i = 0; i < 32; ++i) {
    q[i] = d == 0 ? 0 : std::clamp(static_cast<int>((x[i] - *low) / d + 0.5f), 0, 15);
  }
  AppendNibbles(out, q);
}

}  // namespace

std::string Quantize(TensorType type, absl::Span<const float> values) {
  const TensorTypeInfo& info = GetTensorTypeInfo(type);
  PACELINE_CHECK(values.size() % info.block_size == 0, "quantize: not whole blocks");
  std::string out;
  out.reserve(values.size() / info.block_size * info.block_bytes);
  for (size_t i = 0; i < values.size(); i += info.block_size) {
    const float* x = values.data() + i;
    switch (type) {
      case TensorType::kF32:
        out.append(reinterpret_cast<const char*>(x), sizeof(float));
        break;
      case TensorType::kF16:
        Append16(out, FloatToHalf(*x));
        break;
      case TensorType::kBF16:
        Append16(out, FloatToBFloat16(*x));
        break;
      case TensorType::kQ8_0:
        QuantizeQ8_0(x, out);
        break;
      case TensorType::kQ4_0:
        QuantizeQ4_0(x, out);
        break;
      case TensorType::kQ4_1:
        QuantizeQ4_1(x, out);
        break;
    }
  }
  return out;
}

}  // namespace paceline::model
