#include "kernels/gemm/packed_matrix.h"

#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {
namespace {

class PackedMatrixTest : public testing::TestWithParam<WeightFormat> {
 protected:
  ThreadPool pool_{2, false};
};

TEST_P(PackedMatrixTest, RowsComeBackExactly) {
  const TestWeights w = RandomWeights(GetParam(), 37, 96, 1);
  const PackedMatrix packed = PackOrDie(pool_, w);
  EXPECT_EQ(packed.n(), 37);
  EXPECT_EQ(packed.k(), 96);
  std::vector<float> row(96);
  for (int64_t r = 0; r < w.n; ++r) {
    UnpackRow(packed, r, row.data());
    for (int64_t i = 0; i < w.k; ++i) {
      ASSERT_EQ(row[i], static_cast<float>(w.values[r * w.k + i])) << r << " " << i;
    }
  }
}

TEST_P(PackedMatrixTest, TakesNoMoreMemoryThanTheFile) {
  const TestWeights w = RandomWeights(GetParam(), 64, 96, 2);
  EXPECT_EQ(static_cast<size_t>(PackOrDie(pool_, w).bytes()), w.bytes.size());
}

TEST_P(PackedMatrixTest, ColumnSlicesOfWiderRowsPackAsTheyAre) {
  const TestWeights wide = RandomWeights(GetParam(), 20, 128, 3);
  const int64_t stride = RowBytes(GetParam(), 128);
  const MatrixSource right{wide.bytes.data() + stride / 2, 20, stride};
  auto packed = PackRows(pool_, GetParam(), {&right, 1}, 64);
  ASSERT_TRUE(packed.ok());
  std::vector<float> row(64);
  for (int64_t r = 0; r < 20; ++r) {
    UnpackRow(*packed, r, row.data());
    for (int64_t i = 0; i < 64; ++i) {
      ASSERT_EQ(row[i], static_cast<float>(wide.values[r * 128 + 64 + i]));
    }
  }
}

TEST_P(PackedMatrixTest, WrongSizesAreInvalid) {
  const uint8_t byte = 0;
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(Pack(pool_, GetParam(), &byte, 0, 32).status().code(), kInvalid);
  EXPECT_EQ(Pack(pool_, GetParam(), &byte, 1, 0).status().code(), kInvalid);
  EXPECT_EQ(Pack(pool_, GetParam(), &byte, 1, -32).status().code(), kInvalid);
  EXPECT_EQ(Pack(pool_, GetParam(), nullptr, 1, 32).status().code(), kInvalid);
  EXPECT_EQ(PackRows(pool_, GetParam(), {}, 32).status().code(), kInvalid);
  const MatrixSource overlapping{&byte, 2, 1};
  EXPECT_EQ(PackRows(pool_, GetParam(), {&overlapping, 1}, 32).status().code(), kInvalid);
}

INSTANTIATE_TEST_SUITE_P(Formats,
                         PackedMatrixTest,
                         testing::ValuesIn(kAllFormats),
                         [](const auto& info) {
                           return std::string(WeightFormatName(info.param));
                         });

TEST(PackTest, QuantisedRowsMustBeWholeBlocks) {
  ThreadPool pool(1, false);
  const std::vector<uint8_t> bytes(4096);
  for (WeightFormat format : kQuantizedFormats) {
    EXPECT_FALSE(Pack(pool, format, bytes.data(), 1, 33).ok());
    EXPECT_EQ(RowBytes(format, 33), 0);
  }
}

}  // namespace
}  // namespace paceline::kernels
