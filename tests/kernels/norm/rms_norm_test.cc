#include "kernels/norm/rms_norm.h"

#include <cmath>
#include <vector>

#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {
namespace {

constexpr float kEps = 1e-5f;

class RmsNormTest : public IsaTest {
 protected:
  ThreadPool pool_{2, false};
};

TEST_P(RmsNormTest, MatchesDoublePrecision) {
  for (int64_t h : {1, 15, 16, 33, 576, 1030}) {
    const std::vector<float> x = RandomFloats(4 * h, 1, 5.0f);
    const std::vector<float> weight = RandomFloats(h, 2);
    std::vector<float> out(4 * h);
    ASSERT_TRUE(
        RmsNorm(pool_, Matrix(x.data(), 4, h), weight, kEps, MutableMatrix(out.data(), 4, h)).ok());
    for (int64_t i = 0; i < 4; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < h; ++j) sum += static_cast<double>(x[i * h + j]) * x[i * h + j];
      const double scale = 1.0 / std::sqrt(sum / static_cast<double>(h) + kEps);
      for (int64_t j = 0; j < h; ++j) {
        const double expected = x[i * h + j] * scale * weight[j];
        EXPECT_NEAR(out[i * h + j], expected, 3e-7 * std::fabs(expected)) << h;
      }
    }
  }
}

TEST_P(RmsNormTest, WorksInPlace) {
  std::vector<float> x = RandomFloats(2 * 100, 3);
  const std::vector<float> weight = RandomFloats(100, 4);
  std::vector<float> out(200);
  ASSERT_TRUE(
      RmsNorm(pool_, Matrix(x.data(), 2, 100), weight, kEps, MutableMatrix(out.data(), 2, 100))
          .ok());
  const MutableMatrix view(x.data(), 2, 100);
  ASSERT_TRUE(RmsNorm(pool_, view, weight, kEps, view).ok());
  EXPECT_TRUE(SameBits(x.data(), out.data(), 200));
}

TEST_P(RmsNormTest, FusedFormsGiveTheBitsOfSeparateSteps) {
  for (ActivationForm form : {ActivationForm::kFloat32, ActivationForm::kInt8}) {
    for (int64_t h : {64, 576, 1056}) {  // below, above and far above one piece
      const std::vector<float> x = RandomFloats(3 * h, 5);
      const std::vector<float> weight = RandomFloats(h, 6);
      std::vector<float> norm(3 * h);
      const Matrix view(x.data(), 3, h);
      ASSERT_TRUE(RmsNorm(pool_, view, weight, kEps, MutableMatrix(norm.data(), 3, h)).ok());
      Activations expected(form), fused(form);
      ASSERT_TRUE(QuantizeActivations(pool_, Matrix(norm.data(), 3, h), expected).ok());
      ASSERT_TRUE(RmsNorm(pool_, view, weight, kEps, fused).ok());
      for (int64_t i = 0; i < 3; ++i) {
        if (form == ActivationForm::kInt8) {
          EXPECT_TRUE(SameBits(fused.block_row(i), expected.block_row(i), h / 32)) << h;
        } else {
          EXPECT_TRUE(SameBits(fused.float_row(i), expected.float_row(i), h)) << h;
        }
      }
    }
  }
}

TEST_P(RmsNormTest, AddVariantAddsTheResidualFirst) {
  std::vector<float> x = RandomFloats(3 * 96, 7);
  const std::vector<float> residual = RandomFloats(3 * 96, 8);
  const std::vector<float> weight = RandomFloats(96, 9);
  std::vector<float> sum(x);
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += residual[i];
  Activations expected(ActivationForm::kInt8), fused(ActivationForm::kInt8);
  ASSERT_TRUE(RmsNorm(pool_, Matrix(sum.data(), 3, 96), weight, kEps, expected).ok());
  ASSERT_TRUE(AddRmsNorm(pool_,
                         MutableMatrix(x.data(), 3, 96),
                         Matrix(residual.data(), 3, 96),
                         weight,
                         kEps,
                         fused)
                  .ok());
  EXPECT_TRUE(SameBits(x.data(), sum.data(), 3 * 96));
  EXPECT_TRUE(SameBits(fused.block_row(0), expected.block_row(0), 9));
}

TEST_P(RmsNormTest, RowsAreIndependentOfEachOther) {
  const std::vector<float> x = RandomFloats(64 * 100, 10);
  const std::vector<float> weight = RandomFloats(100, 11);
  std::vector<float> all(64 * 100), one(100);
  ASSERT_TRUE(
      RmsNorm(pool_, Matrix(x.data(), 64, 100), weight, kEps, MutableMatrix(all.data(), 64, 100))
          .ok());
  for (int64_t i = 0; i < 64; ++i) {
    ASSERT_TRUE(RmsNorm(pool_,
                        Matrix(x.data() + i * 100, 1, 100),
                        weight,
                        kEps,
                        MutableMatrix(one.data(), 1, 100))
                    .ok());
    EXPECT_TRUE(SameBits(one.data(), all.data() + i * 100, 100));
  }
}

TEST_P(RmsNormTest, ShapesThatDoNotFitAreInvalid) {
  const std::vector<float> x(64), weight(32), short_weight(31);
  std::vector<float> out(64);
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  const Matrix view(x.data(), 2, 32);
  EXPECT_EQ(RmsNorm(pool_, view, short_weight, kEps, MutableMatrix(out.data(), 2, 32)).code(),
            kInvalid);
  EXPECT_EQ(RmsNorm(pool_, view, weight, kEps, MutableMatrix(out.data(), 1, 32)).code(), kInvalid);
  EXPECT_EQ(RmsNorm(pool_, view, weight, kEps, MutableMatrix(nullptr, 2, 32)).code(), kInvalid);
  Activations activations(ActivationForm::kInt8);
  EXPECT_EQ(AddRmsNorm(pool_,
                       MutableMatrix(out.data(), 2, 32),
                       Matrix(x.data(), 1, 32),
                       weight,
                       kEps,
                       activations)
                .code(),
            kInvalid);
}

INSTANTIATE_TEST_SUITE_P(Isas, RmsNormTest, AllIsas(), IsaTestName);

}  // namespace
}  // namespace paceline::kernels
