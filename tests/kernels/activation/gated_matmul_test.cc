#include "kernels/activation/gated_matmul.h"

#include <vector>

#include "kernels/activation/silu_mul.h"
#include "kernels/gemm/matmul.h"
#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {
namespace {

class GatedMatmulTest : public IsaTest {
 protected:
  Activations Quantize(const std::vector<float>& x, int64_t k) {
    Activations out(ActivationForm::kInt8);
    const Matrix view(x.data(), static_cast<int64_t>(x.size()) / k, k);
    EXPECT_TRUE(QuantizeActivations(pool_, view, out).ok());
    return out;
  }

  // Rows of gate and up by turns.
  PackedMatrix PackTurns(const TestWeights& gate, const TestWeights& up) {
    std::vector<MatrixSource> sources;
    const int64_t turn = kPackRows * RowBytes(gate.format, gate.k);
    for (int64_t i = 0; i < gate.n / kPackRows; ++i) {
      sources.push_back({gate.bytes.data() + i * turn, kPackRows});
      sources.push_back({up.bytes.data() + i * turn, kPackRows});
    }
    auto packed = PackRows(pool_, gate.format, sources, gate.k);
    EXPECT_TRUE(packed.ok());
    return *std::move(packed);
  }

  std::vector<float> Multiply(const Activations& x, const PackedMatrix& w) {
    std::vector<float> y(x.rows() * w.n());
    EXPECT_TRUE(Matmul(pool_, x, w, {}, MutableMatrix(y.data(), x.rows(), w.n())).ok());
    return y;
  }

  ThreadPool pool_{2, false};
};

TEST_P(GatedMatmulTest, GivesTheBitsOfItsThreeSteps) {
  for (WeightFormat format : kQuantizedFormats) {
    const int64_t k = 96, f = 160;
    const TestWeights gate = RandomWeights(format, f, k, 1), up = RandomWeights(format, f, k, 2);
    const PackedMatrix turns = PackTurns(gate, up);
    const PackedMatrix gate_alone = PackOrDie(pool_, gate), up_alone = PackOrDie(pool_, up);
    for (int64_t m : {1, 2, 8, 9, 31, 33, 100}) {
      const Activations x = Quantize(RandomFloats(m * k, 3), k);
      Activations out(ActivationForm::kInt8);
      ASSERT_TRUE(GatedMatmul(pool_, x, turns, out).ok());
      const std::vector<float> g = Multiply(x, gate_alone), u = Multiply(x, up_alone);
      Activations expected(ActivationForm::kInt8);
      ASSERT_TRUE(SiluMul(pool_, Matrix(g.data(), m, f), Matrix(u.data(), m, f), expected).ok());
      ASSERT_EQ(out.rows(), m);
      ASSERT_EQ(out.cols(), f);
      EXPECT_TRUE(SameBits(out.block_row(0), expected.block_row(0), m * f / 32))
          << WeightFormatName(format) << " m = " << m;
    }
  }
}

TEST_P(GatedMatmulTest, WhatDoesNotFitIsInvalid) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  const Activations x = Quantize(RandomFloats(2 * 64, 4), 64);
  Activations out(ActivationForm::kInt8), floats(ActivationForm::kFloat32);
  const PackedMatrix good = PackOrDie(pool_, RandomWeights(WeightFormat::kQ4_1, 64, 64, 5));
  EXPECT_TRUE(GatedMatmul(pool_, x, good, out).ok());
  EXPECT_EQ(GatedMatmul(pool_, x, good, floats).code(), kInvalid);
  EXPECT_EQ(GatedMatmul(pool_, floats, good, out).code(), kInvalid);
  const PackedMatrix half = PackOrDie(pool_, RandomWeights(WeightFormat::kQ4_1, 96, 64, 6));
  EXPECT_EQ(GatedMatmul(pool_, x, half, out).code(), kInvalid);
  const PackedMatrix wide = PackOrDie(pool_, RandomWeights(WeightFormat::kQ4_1, 64, 96, 7));
  EXPECT_EQ(GatedMatmul(pool_, x, wide, out).code(), kInvalid);
  const PackedMatrix half_floats = PackOrDie(pool_, RandomWeights(WeightFormat::kF16, 64, 64, 8));
  EXPECT_EQ(GatedMatmul(pool_, x, half_floats, out).code(), kInvalid);
}

INSTANTIATE_TEST_SUITE_P(Isas, GatedMatmulTest, AllIsas(), IsaTestName);

}  // namespace
}  // namespace paceline::kernels
