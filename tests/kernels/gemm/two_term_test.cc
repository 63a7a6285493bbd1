#include "kernels/gemm/two_term.h"

#include <cmath>
#include <vector>

#include "kernels/gemm/matmul.h"
#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {
namespace {

constexpr int64_t kK = 96;
constexpr int64_t kN = 40;

class TwoTermTest : public IsaTest {
 protected:
  Activations Quantize(const std::vector<float>& x) {
    Activations out(ActivationForm::kInt8);
    const Matrix view(x.data(), static_cast<int64_t>(x.size()) / kK, kK);
    EXPECT_TRUE(QuantizeTwoTerm(pool_, view, out).ok());
    return out;
  }

  std::vector<float> Multiply(const std::vector<float>& x, const PackedMatrix& w) {
    const auto m = static_cast<int64_t>(x.size()) / kK;
    std::vector<float> y(m * w.n());
    const auto status = MatmulTwoTerm(pool_, Quantize(x), w, MutableMatrix(y.data(), m, w.n()));
    EXPECT_TRUE(status.ok()) << status;
    return y;
  }

  ThreadPool pool_{2, false};
};

TEST_P(TwoTermTest, TwoTermsHoldTheInputToFifteenBits) {
  const std::vector<float> x = RandomFloats(5 * kK, 1, 3.0f);
  const Activations q = Quantize(x);
  ASSERT_EQ(q.rows(), 10);
  for (int64_t i = 0; i < 5; ++i) {
    for (int64_t j = 0; j < kK; ++j) {
      const ActivationBlock& first = q.block_row(2 * i)[j / 32];
      const ActivationBlock& second = q.block_row(2 * i + 1)[j / 32];
      const double value = static_cast<double>(first.d) * first.q[j % 32] +
                           static_cast<double>(second.d) * second.q[j % 32];
      // Half a step of the second term, whose largest is half a step of the first.
      EXPECT_NEAR(value, x[i * kK + j], 0.5 * 0.51 / 127 * first.d);
    }
  }
}

TEST_P(TwoTermTest, IsTheSumOfTheTwoProductsBitByBit) {
  for (WeightFormat format : kQuantizedFormats) {
    const PackedMatrix w = PackOrDie(pool_, RandomWeights(format, kN, kK, 2));
    for (int64_t m : {1, 2, 3, 4, 5, 9, 70}) {
      const std::vector<float> x = RandomFloats(m * kK, 3);
      std::vector<float> terms(2 * m * kN);
      const MutableMatrix view(terms.data(), 2 * m, kN);
      ASSERT_TRUE(Matmul(pool_, Quantize(x), w, {}, view).ok());
      std::vector<float> expected(m * kN);
      for (int64_t i = 0; i < m * kN; ++i) {
        expected[i] = terms[i / kN * 2 * kN + i % kN] + terms[(i / kN * 2 + 1) * kN + i % kN];
      }
      const std::vector<float> y = Multiply(x, w);
      EXPECT_TRUE(SameBits(y.data(), expected.data(), m * kN))
          << WeightFormatName(format) << " m = " << m;
    }
  }
}

TEST_P(TwoTermTest, ComesCloseToTheFloatProduct) {
  const TestWeights weights = RandomWeights(WeightFormat::kQ8_0, kN, kK, 4);
  const std::vector<float> x = RandomFloats(3 * kK, 5);
  const std::vector<float> y = Multiply(x, PackOrDie(pool_, weights));
  for (int64_t i = 0; i < 3; ++i) {
    for (int64_t r = 0; r < kN; ++r) {
      double sum = 0, magnitude = 0;
      for (int64_t j = 0; j < kK; ++j) {
        sum += x[i * kK + j] * weights.values[r * kK + j];
        magnitude += std::fabs(x[i * kK + j] * weights.values[r * kK + j]);
      }
      EXPECT_NEAR(y[i * kN + r], sum, 5e-5 * magnitude);
    }
  }
}

TEST_P(TwoTermTest, WrongShapesAndFormsAreInvalid) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  const PackedMatrix w = PackOrDie(pool_, RandomWeights(WeightFormat::kQ8_0, kN, kK, 6));
  const std::vector<float> x = RandomFloats(2 * kK, 7);
  const Activations q = Quantize(x);
  std::vector<float> y(4 * kN);
  EXPECT_EQ(MatmulTwoTerm(pool_, q, w, MutableMatrix(y.data(), 4, kN)).code(), kInvalid);
  EXPECT_EQ(MatmulTwoTerm(pool_, q, w, MutableMatrix(y.data(), 1, kN)).code(), kInvalid);
  EXPECT_EQ(MatmulTwoTerm(pool_, q, w, MutableMatrix(y.data(), 2, kN - 1)).code(), kInvalid);
  Activations floats(ActivationForm::kFloat32);
  EXPECT_EQ(QuantizeTwoTerm(pool_, Matrix(x.data(), 2, kK), floats).code(), kInvalid);
}

INSTANTIATE_TEST_SUITE_P(Isas, TwoTermTest, AllIsas(), IsaTestName);

}  // namespace
}  // namespace paceline::kernels
