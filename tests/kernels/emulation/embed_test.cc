// Row gathers for CUDA, in emulation, beside the tables' exact values.
#include "gtest/gtest.h"
#include "kernels/embedding/embed_device.h"
#include "kernels/emulation/grid.h"
#include "tests/kernels/emulation/device_array.h"
#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {
namespace {

TEST(DeviceEmbedTest, GathersRowsOfEveryFormat) {
  constexpr int32_t kNumIds = 11, kCols = 160;
  const std::vector<int32_t> ids = {3, 0, 10, 3};
  for (const WeightFormat format : kAllFormats) {
    emulation::SetSeed(static_cast<int>(format));
    const TestWeights table = RandomWeights(format, kNumIds, kCols, 1);
    DeviceArray<uint8_t> bytes(table.bytes);
    DeviceArray<int32_t> device_ids(ids);
    DeviceArray<float> out(static_cast<int64_t>(ids.size()) * kCols);
    const absl::Status status = DeviceEmbed(nullptr,
                                            {.table = bytes.data(),
                                             .format = format,
                                             .ids = device_ids.data(),
                                             .out = out.data(),
                                             .rows = static_cast<int32_t>(ids.size()),
                                             .cols = kCols,
                                             .num_ids = kNumIds});
    ASSERT_TRUE(status.ok()) << status;
    for (size_t i = 0; i < ids.size(); ++i) {
      for (int32_t c = 0; c < kCols; ++c) {
        // One rounding of the exact value: products of scales and small integers are exact.
        ASSERT_EQ(out[i * kCols + c], static_cast<float>(table.values[ids[i] * kCols + c]))
            << WeightFormatName(format) << " row " << i << " column " << c;
      }
    }
  }
}

TEST(DeviceEmbedTest, IdsOfOtherRanksGiveZeros) {
  constexpr int32_t kCols = 32;
  const TestWeights table = RandomWeights(WeightFormat::kF32, 4, kCols, 2);
  DeviceArray<uint8_t> bytes(table.bytes);
  const std::vector<int32_t> ids = {99, 100, 103, 104, 0};
  DeviceArray<int32_t> device_ids(ids);
  DeviceArray<float> out(static_cast<int64_t>(ids.size()) * kCols);
  const absl::Status status = DeviceEmbed(nullptr,
                                          {.table = bytes.data(),
                                           .format = WeightFormat::kF32,
                                           .ids = device_ids.data(),
                                           .out = out.data(),
                                           .rows = static_cast<int32_t>(ids.size()),
                                           .cols = kCols,
                                           .first_id = 100,
                                           .num_ids = 4});
  ASSERT_TRUE(status.ok()) << status;
  for (size_t i = 0; i < ids.size(); ++i) {
    const int32_t row = ids[i] - 100;
    for (int32_t c = 0; c < kCols; ++c) {
      const float expected =
          row >= 0 && row < 4 ? static_cast<float>(table.values[row * kCols + c]) : 0.0f;
      ASSERT_EQ(out[i * kCols + c], expected) << ids[i];
    }
  }
}

TEST(DeviceEmbedTest, WrongSizesAreInvalid) {
  const auto code = [](WeightFormat format, int32_t rows, int32_t cols) {
    return DeviceEmbed(nullptr, {.format = format, .rows = rows, .cols = cols, .num_ids = 1})
        .code();
  };
  EXPECT_EQ(code(WeightFormat::kF16, 0, 32), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(WeightFormat::kF16, 1, 0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(WeightFormat::kQ8_0, 1, 33), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace paceline::kernels
