#include "kernels/activation/silu_mul.h"

#include <cmath>
#include <vector>

#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {
namespace {

class SiluMulTest : public IsaTest {
 protected:
  std::vector<float> Apply(const std::vector<float>& gate, const std::vector<float>& up) {
    const auto n = static_cast<int64_t>(gate.size());
    std::vector<float> out(n);
    EXPECT_TRUE(SiluMul(pool_,
                        Matrix(gate.data(), 1, n),
                        Matrix(up.data(), 1, n),
                        MutableMatrix(out.data(), 1, n))
                    .ok());
    return out;
  }
  ThreadPool pool_{2, false};
};

TEST_P(SiluMulTest, MatchesDoublePrecision) {
  for (int64_t n : {1, 17, 1536}) {
    const std::vector<float> gate = RandomFloats(n, 1, 8.0f), up = RandomFloats(n, 2);
    const std::vector<float> out = Apply(gate, up);
    for (int64_t i = 0; i < n; ++i) {
      const double g = gate[i];
      const double expected = g / (1 + std::exp(-g)) * up[i];
      EXPECT_NEAR(out[i], expected, 5e-7 * std::fabs(expected)) << g;
    }
  }
}

TEST_P(SiluMulTest, ExtremeGatesStaySane) {
  const std::vector<float> out =
      Apply({-1e30f, -200.0f, -89.0f, 0.0f, 89.0f, 1e30f, NAN}, std::vector<float>(7, 1.0f));
  EXPECT_EQ(out[0], 0.0f);
  EXPECT_EQ(out[1], 0.0f);
  EXPECT_NEAR(out[2], 0.0f, 1e-30f);
  EXPECT_EQ(out[3], 0.0f);
  EXPECT_EQ(out[4], 89.0f);
  EXPECT_EQ(out[5], 1e30f);
  EXPECT_TRUE(std::isnan(out[6]));
}

TEST_P(SiluMulTest, FusedFormsGiveTheBitsOfSeparateSteps) {
  for (ActivationForm form : {ActivationForm::kFloat32, ActivationForm::kInt8}) {
    const int64_t m = 5, f = 1536;
    const std::vector<float> gate_up = RandomFloats(m * 2 * f, 3);
    const Matrix both(gate_up.data(), m, 2 * f);
    std::vector<float> out(m * f);
    ASSERT_TRUE(
        SiluMul(pool_, both.Columns(0, f), both.Columns(f, f), MutableMatrix(out.data(), m, f))
            .ok());
    Activations expected(form), fused(form);
    ASSERT_TRUE(QuantizeActivations(pool_, Matrix(out.data(), m, f), expected).ok());
    ASSERT_TRUE(SiluMul(pool_, both.Columns(0, f), both.Columns(f, f), fused).ok());
    for (int64_t i = 0; i < m; ++i) {
      if (form == ActivationForm::kInt8) {
        EXPECT_TRUE(SameBits(fused.block_row(i), expected.block_row(i), f / 32));
      } else {
        EXPECT_TRUE(SameBits(fused.float_row(i), expected.float_row(i), f));
      }
    }
  }
}

TEST_P(SiluMulTest, ShapesThatDoNotFitAreInvalid) {
  const std::vector<float> x(64);
  std::vector<float> out(64);
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  Activations activations(ActivationForm::kInt8);
  EXPECT_EQ(SiluMul(pool_, Matrix(x.data(), 2, 32), Matrix(x.data(), 1, 32), activations).code(),
            kInvalid);
  EXPECT_EQ(
      SiluMul(
          pool_, Matrix(x.data(), 2, 32), Matrix(x.data(), 2, 32), MutableMatrix(out.data(), 2, 31))
          .code(),
      kInvalid);
  EXPECT_EQ(SiluMul(pool_, Matrix(x.data(), 1, 33), Matrix(x.data(), 1, 33), activations).code(),
            kInvalid);
}

INSTANTIATE_TEST_SUITE_P(Isas, SiluMulTest, AllIsas(), IsaTestName);

}  // namespace
}  // namespace paceline::kernels
