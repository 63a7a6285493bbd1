#include "kernels/embedding/embed.h"

#include <vector>

#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {
namespace {

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST(EmbedTest, GathersDequantisedRows) {
  ThreadPool pool(2, false);
  for (WeightFormat format : kAllFormats) {
    const TestWeights w = RandomWeights(format, 50, 64, 1);
    const std::vector<int32_t> ids = {49, 0, 17, 17, 16};
    std::vector<float> out(5 * 64);
    ASSERT_TRUE(Embed(pool, PackOrDie(pool, w), ids, MutableMatrix(out.data(), 5, 64)).ok());
    for (size_t i = 0; i < out.size(); ++i) {
      ASSERT_EQ(out[i], static_cast<float>(w.values[ids[i / 64] * 64 + i % 64]));
    }
  }
}

TEST(EmbedTest, IdsOutsideTheTableAreInvalid) {
  ThreadPool pool(1, false);
  const PackedMatrix table = PackOrDie(pool, RandomWeights(WeightFormat::kQ8_0, 50, 64, 2));
  std::vector<float> out(64);
  const MutableMatrix view(out.data(), 1, 64);
  EXPECT_EQ(Embed(pool, table, {50}, view).code(), kInvalid);
  EXPECT_EQ(Embed(pool, table, {-1}, view).code(), kInvalid);
  EXPECT_EQ(Embed(pool, table, {1, 2}, view).code(), kInvalid);
  EXPECT_EQ(Embed(pool, table, {1}, MutableMatrix(out.data(), 1, 63)).code(), kInvalid);
}

TEST(GatherRowsTest, CopiesTheNamedRows) {
  ThreadPool pool(2, false);
  const std::vector<float> x = RandomFloats(10 * 7, 3);
  std::vector<float> out(3 * 5);
  ASSERT_TRUE(
      GatherRows(pool, Matrix(x.data() + 1, 10, 5, 7), {9, 0, 9}, MutableMatrix(out.data(), 3, 5))
          .ok());
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(out[i], x[9 * 7 + 1 + i]);
    EXPECT_EQ(out[5 + i], x[1 + i]);
    EXPECT_EQ(out[10 + i], x[9 * 7 + 1 + i]);
  }
}

TEST(GatherRowsTest, RowsOutsideAreInvalid) {
  ThreadPool pool(1, false);
  const std::vector<float> x(10);
  std::vector<float> out(5);
  const Matrix view(x.data(), 2, 5);
  EXPECT_EQ(GatherRows(pool, view, {2}, MutableMatrix(out.data(), 1, 5)).code(), kInvalid);
  EXPECT_EQ(GatherRows(pool, view, {0}, MutableMatrix(out.data(), 1, 4)).code(), kInvalid);
}

}  // namespace
}  // namespace paceline::kernels
