#include "model/gguf/tensor_type.h"

#include <bit>
#include <cmath>
#include <set>

#include "gtest/gtest.h"
#include "tests/fakes/quantize.h"
#include "tests/model/gguf/dequantize_cases.h"

namespace paceline::model {
namespace {

TEST(TensorTypeTest, DequantizeGivesTheBitsOfTheReferencePackage) {
  std::set<TensorType> seen;
  for (const DequantizeCase& c : DequantizeCases()) {
    seen.insert(c.type);
    std::vector<float> floats(c.float_bits.size());
    // One byte off any alignment, as a tensor in a file may lie.
    std::vector<uint8_t> shifted(c.bytes.size() + 1);
    std::copy(c.bytes.begin(), c.bytes.end(), shifted.begin() + 1);
    Dequantize(c.type, shifted.data() + 1, static_cast<int64_t>(floats.size()), floats.data());
    for (size_t i = 0; i < floats.size(); ++i) {
      EXPECT_EQ(std::bit_cast<uint32_t>(floats[i]), c.float_bits[i])
          << TensorTypeName(c.type) << " element " << i << ": " << floats[i] << " for "
          << std::bit_cast<float>(c.float_bits[i]);
    }
  }
  EXPECT_EQ(seen.size(), TensorTypes().size()) << "a tensor type has no case";
}

TEST(TensorTypeTest, SizesAreThoseOfTheReferencePackage) {
  for (const DequantizeCase& c : DequantizeCases()) {
    EXPECT_EQ(TensorBytes(c.type, static_cast<int64_t>(c.float_bits.size())), c.bytes.size())
        << TensorTypeName(c.type);
  }
}

TEST(TensorTypeTest, BytesOfBrokenBlocksOrOverflowAreRefused) {
  EXPECT_EQ(TensorBytes(TensorType::kQ4_1, 64), 40);
  EXPECT_EQ(TensorBytes(TensorType::kQ4_1, 0), 0);
  EXPECT_FALSE(TensorBytes(TensorType::kQ4_1, 33).has_value());
  EXPECT_FALSE(TensorBytes(TensorType::kF32, int64_t{1} << 62).has_value());
}

TEST(TensorTypeTest, UnknownIdsAreDescribedByNameWhereTheFormatHasOne) {
  EXPECT_EQ(FindTensorType(12), nullptr);
  EXPECT_EQ(DescribeTensorTypeId(12), "12 (Q4_K)");
  EXPECT_EQ(DescribeTensorTypeId(30), "30 (BF16)");
  EXPECT_EQ(DescribeTensorTypeId(4), "4");
  EXPECT_EQ(DescribeTensorTypeId(4000000000u), "4000000000");
}

// The fake's quantizers: within half a quantisation step of the value.
TEST(TensorTypeTest, QuantizeAndBackStaysWithinHalfAStep) {
  std::vector<float> values(256);
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i * i));
  const std::pair<TensorType, float> kSteps[] = {
      {TensorType::kF32, 0},
      {TensorType::kF16, 1.0f / 1024},
      {TensorType::kBF16, 1.0f / 128},
      {TensorType::kQ8_0, 1.0f / 120},
      {TensorType::kQ4_0, 1.0f / 4},
      {TensorType::kQ4_1, 2.0f / 14},
  };
  for (const auto& [type, step] : kSteps) {
    const std::string bytes = Quantize(type, values);
    ASSERT_EQ(static_cast<int64_t>(bytes.size()), TensorBytes(type, values.size()));
    std::vector<float> back(values.size());
    Dequantize(type, reinterpret_cast<const uint8_t*>(bytes.data()), back.size(), back.data());
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_NEAR(back[i], values[i], step / 2) << TensorTypeName(type) << " element " << i;
    }
  }
}

}  // namespace
}  // namespace paceline::model
