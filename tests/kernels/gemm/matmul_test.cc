#include "kernels/gemm/matmul.h"

#include <cmath>
#include <vector>

#include "gmock/gmock.h"
#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {
namespace {

using testing::HasSubstr;

// What the matmul multiplies: x itself, or x as the int8 blocks represent it.
std::vector<double> EffectiveInput(const Activations& x) {
  std::vector<double> values;
  for (int64_t i = 0; i < x.rows(); ++i) {
    for (int64_t j = 0; j < x.cols(); ++j) {
      if (x.form() == ActivationForm::kFloat32) {
        values.push_back(x.float_row(i)[j]);
      } else {
        const ActivationBlock& block = x.block_row(i)[j / 32];
        values.push_back(static_cast<double>(block.d) * BlockValue(block, j % 32));
      }
    }
  }
  return values;
}

Activations MakeInput(ThreadPool& pool,
                      ActivationForm form,
                      const std::vector<float>& x,
                      int64_t k) {
  Activations activations(form);
  const auto rows = static_cast<int64_t>(x.size()) / k;
  EXPECT_TRUE(QuantizeActivations(pool, Matrix(x.data(), rows, k), activations).ok());
  return activations;
}

std::vector<float> Multiply(ThreadPool& pool,
                            const Activations& x,
                            const PackedMatrix& w,
                            const Epilogue& epilogue = {},
                            float initial = NAN) {
  std::vector<float> y(x.rows() * w.n(), initial);
  const auto status = Matmul(pool, x, w, epilogue, MutableMatrix(y.data(), x.rows(), w.n()));
  EXPECT_TRUE(status.ok()) << status;
  return y;
}

void ExpectClose(const std::vector<float>& y,
                 const std::vector<double>& x,
                 const TestWeights& w,
                 const std::string& what) {
  const int64_t m = static_cast<int64_t>(x.size()) / w.k;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t r = 0; r < w.n; ++r) {
      double sum = 0;
      double magnitude = 0;  // of what is added up: rounding errors are relative to it
      for (int64_t j = 0; j < w.k; ++j) {
        sum += x[i * w.k + j] * w.values[r * w.k + j];
        magnitude += std::fabs(x[i * w.k + j]) * std::fabs(w.values[r * w.k + j]);
      }
      ASSERT_NEAR(y[i * w.n + r], sum, 4e-6 * magnitude + 1e-12)
          << what << " x row " << i << " w row " << r;
    }
  }
}

// The nearest numbers with 8 significant bits, for what is multiplied as bf16.
std::vector<double> Rounded(std::vector<double> x, WeightFormat format) {
  if (format != WeightFormat::kBF16Pairs) return x;
  for (double& value : x) {
    const double step = std::ldexp(1.0, std::ilogb(value) - 7);
    if (value != 0) value = std::nearbyint(value / step) * step;
  }
  return x;
}

class MatmulTest : public IsaTest {
 protected:
  ThreadPool pool_{2, false};
};

TEST_P(MatmulTest, FloatInputMatchesDoublePrecision) {
  for (WeightFormat format : kAllFormats) {
    for (int64_t n : {1, 15, 16, 17, 100}) {
      const TestWeights w = RandomWeights(format, n, 96, 1);
      const PackedMatrix packed = PackOrDie(pool_, w);
      for (int64_t m : {1, 2, 7, 9, 33}) {
        const auto x = MakeInput(pool_, ActivationForm::kFloat32, RandomFloats(m * 96, 2), 96);
        ExpectClose(Multiply(pool_, x, packed),
                    Rounded(EffectiveInput(x), format),
                    w,
                    std::string(WeightFormatName(format)));
      }
    }
  }
}

TEST_P(MatmulTest, Int8InputMatchesDoublePrecisionOnTheQuantisedValues) {
  for (WeightFormat format : kQuantizedFormats) {
    for (int64_t n : {1, 15, 16, 17, 100}) {
      const TestWeights w = RandomWeights(format, n, 96, 3);
      const PackedMatrix packed = PackOrDie(pool_, w);
      for (int64_t m : {1, 2, 7, 9, 33}) {
        const auto x = MakeInput(pool_, ActivationForm::kInt8, RandomFloats(m * 96, 4), 96);
        ExpectClose(Multiply(pool_, x, packed),
                    EffectiveInput(x),
                    w,
                    std::string(WeightFormatName(format)));
      }
    }
  }
}

TEST_P(MatmulTest, FloatFormatsTakeAnyNumberOfColumns) {
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kF16, WeightFormat::kBF16}) {
    for (int64_t k : {1, 5, 33}) {
      const TestWeights w = RandomWeights(format, 20, k, 5);
      const auto x = MakeInput(pool_, ActivationForm::kFloat32, RandomFloats(3 * k, 6), k);
      ExpectClose(Multiply(pool_, x, PackOrDie(pool_, w)), EffectiveInput(x), w, "odd k");
    }
  }
}

TEST_P(MatmulTest, LargestInt8ValuesDoNotOverflow) {
  for (WeightFormat format : kQuantizedFormats) {
    TestWeights w = RandomWeights(format, 16, 1536, 7);
    for (float sign : {1.0f, -1.0f}) {
      std::vector<float> values(1536, sign * 1000.0f);
      const auto x = MakeInput(pool_, ActivationForm::kInt8, values, 1536);
      ExpectClose(Multiply(pool_, x, PackOrDie(pool_, w)), EffectiveInput(x), w, "all equal");
      for (int b = 0; b < 48; ++b) values[b * 32 + b * 7 % 32] *= b % 2 == 0 ? 16.0f : -100.0f;
      const auto wide = MakeInput(pool_, ActivationForm::kInt8, values, 1536);
      ExpectClose(Multiply(pool_, wide, PackOrDie(pool_, w)), EffectiveInput(wide), w, "wide");
    }
  }
}

TEST_P(MatmulTest, OneRowsBitsDoNotDependOnTheOtherRows) {
  constexpr int64_t kRows = 64;
  for (const ActivationForm form : {ActivationForm::kInt8, ActivationForm::kFloat32}) {
    for (WeightFormat format : kAllFormats) {
      if (form !=
          ActivationFormFor(
              format, form == ActivationForm::kInt8 ? ComputeType::kInt8 : ComputeType::kFloat32)) {
        continue;
      }
      const int64_t n = 40, k = 64;
      const PackedMatrix w = PackOrDie(pool_, RandomWeights(format, n, k, 8));
      const std::vector<float> rows = RandomFloats(kRows * k, 9);
      std::vector<float> alone;
      for (int64_t i = 0; i < kRows; ++i) {
        const std::vector<float> row(rows.begin() + i * k, rows.begin() + (i + 1) * k);
        const auto y = Multiply(pool_, MakeInput(pool_, form, row, k), w);
        alone.insert(alone.end(), y.begin(), y.end());
      }
      for (int64_t m = 1; m <= kRows; ++m) {
        const std::vector<float> some(rows.begin(), rows.begin() + m * k);
        const auto y = Multiply(pool_, MakeInput(pool_, form, some, k), w);
        ASSERT_TRUE(SameBits(y.data(), alone.data(), m * n))
            << WeightFormatName(format) << " m = " << m;
      }
    }
  }
}

TEST_P(MatmulTest, ManyRowsGiveTheSameBitsAsOneByOne) {
  // More rows than one panel holds.
  const int64_t m = 300, n = 48, k = 576;
  for (const ActivationForm form : {ActivationForm::kInt8, ActivationForm::kFloat32}) {
    const PackedMatrix w = PackOrDie(pool_, RandomWeights(WeightFormat::kQ4_1, n, k, 10));
    const std::vector<float> rows = RandomFloats(m * k, 11);
    const auto together = Multiply(pool_, MakeInput(pool_, form, rows, k), w);
    for (int64_t i = 0; i < m; i += 37) {
      const std::vector<float> row(rows.begin() + i * k, rows.begin() + (i + 1) * k);
      const auto y = Multiply(pool_, MakeInput(pool_, form, row, k), w);
      EXPECT_TRUE(SameBits(y.data(), together.data() + i * n, n)) << i;
    }
  }
}

TEST_P(MatmulTest, BitsDoNotDependOnTheNumberOfThreads) {
  for (WeightFormat format : kAllFormats) {
    const TestWeights weights = RandomWeights(format, 200, 64, 12);
    const PackedMatrix w = PackOrDie(pool_, weights);
    const ActivationForm form = ActivationFormFor(format, ComputeType::kInt8);
    const auto x = MakeInput(pool_, form, RandomFloats(5 * 64, 13), 64);
    ThreadPool one(1, false);
    const auto expected = Multiply(one, x, w);
    for (int threads : {2, 3, 7}) {
      ThreadPool pool(threads, false);
      const auto y = Multiply(pool, x, w);
      EXPECT_TRUE(SameBits(y.data(), expected.data(), static_cast<int64_t>(y.size()))) << threads;
    }
  }
}

TEST_P(MatmulTest, PackedTogetherGivesTheSameBitsAsApart) {
  const int64_t k = 64;
  for (WeightFormat format : kAllFormats) {
    const TestWeights a = RandomWeights(format, 24, k, 14);  // not a multiple of 16
    const TestWeights b = RandomWeights(format, 19, k, 15);
    const MatrixSource sources[] = {{a.bytes.data(), a.n}, {b.bytes.data(), b.n}};
    auto both = PackRows(pool_, format, sources, k);
    ASSERT_TRUE(both.ok());
    const ActivationForm form = ActivationFormFor(format, ComputeType::kInt8);
    const auto x = MakeInput(pool_, form, RandomFloats(3 * k, 16), k);
    const auto y = Multiply(pool_, x, *both);
    const auto ya = Multiply(pool_, x, PackOrDie(pool_, a));
    const auto yb = Multiply(pool_, x, PackOrDie(pool_, b));
    for (int64_t i = 0; i < 3; ++i) {
      EXPECT_TRUE(SameBits(y.data() + i * 43, ya.data() + i * 24, 24));
      EXPECT_TRUE(SameBits(y.data() + i * 43 + 24, yb.data() + i * 19, 19));
    }
  }
}

TEST_P(MatmulTest, EpilogueAddsBiasThenOldOutput) {
  const TestWeights w = RandomWeights(WeightFormat::kQ4_1, 21, 64, 17);
  const PackedMatrix packed = PackOrDie(pool_, w);
  const auto x = MakeInput(pool_, ActivationForm::kInt8, RandomFloats(9 * 64, 18), 64);
  const std::vector<float> bias = RandomFloats(21, 19);
  const auto plain = Multiply(pool_, x, packed);
  const auto full = Multiply(pool_, x, packed, {.bias = bias.data(), .accumulate = true}, 0.375f);
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_EQ(full[i], 0.375f + (plain[i] + bias[i % 21]));
  }
}

TEST_P(MatmulTest, WritesOnlyItsColumnsOfAWiderOutput) {
  const TestWeights w = RandomWeights(WeightFormat::kQ8_0, 17, 32, 20);
  const auto x = MakeInput(pool_, ActivationForm::kInt8, RandomFloats(4 * 32, 21), 32);
  std::vector<float> wide(4 * 30, 7.0f);
  ASSERT_TRUE(
      Matmul(pool_, x, PackOrDie(pool_, w), {}, MutableMatrix(wide.data() + 5, 4, 17, 30)).ok());
  for (int64_t i = 0; i < 4 * 30 - 5; ++i) {
    const bool inside = (i + 5) % 30 >= 5 && (i + 5) % 30 < 22;
    EXPECT_EQ(wide[i + 5] == 7.0f, !inside) << i;
  }
}

TEST_P(MatmulTest, ANanOrInfinityInTheInputReachesEveryOutputOfItsRow) {
  const PackedMatrix w = PackOrDie(pool_, RandomWeights(WeightFormat::kQ4_1, 16, 64, 22));
  for (float bad : {NAN, INFINITY, -INFINITY}) {
    std::vector<float> values = RandomFloats(2 * 64, 23);
    values[64 + 40] = bad;
    const auto y = Multiply(pool_, MakeInput(pool_, ActivationForm::kInt8, values, 64), w);
    for (int r = 0; r < 16; ++r) {
      EXPECT_TRUE(std::isfinite(y[r]));
      EXPECT_FALSE(std::isfinite(y[16 + r]));
    }
  }
}

TEST_P(MatmulTest, ShapesThatDoNotFitAreInvalid) {
  const PackedMatrix w = PackOrDie(pool_, RandomWeights(WeightFormat::kQ4_1, 16, 64, 24));
  const auto x = MakeInput(pool_, ActivationForm::kInt8, RandomFloats(2 * 96, 25), 96);
  std::vector<float> y(64);
  const auto status = Matmul(pool_, x, w, {}, MutableMatrix(y.data(), 2, 16));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("[2, 96]"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("[16, 64]"));
  const auto fits = MakeInput(pool_, ActivationForm::kInt8, RandomFloats(2 * 64, 25), 64);
  EXPECT_FALSE(Matmul(pool_, fits, w, {}, MutableMatrix(y.data(), 3, 16)).ok());
  EXPECT_FALSE(Matmul(pool_, fits, w, {}, MutableMatrix(y.data(), 2, 15)).ok());
}

TEST_P(MatmulTest, Int8InputWithFloatWeightsIsInvalid) {
  const PackedMatrix w = PackOrDie(pool_, RandomWeights(WeightFormat::kF16, 16, 32, 26));
  const auto x = MakeInput(pool_, ActivationForm::kInt8, RandomFloats(32, 27), 32);
  std::vector<float> y(16);
  EXPECT_EQ(Matmul(pool_, x, w, {}, MutableMatrix(y.data(), 1, 16)).code(),
            absl::StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Isas, MatmulTest, AllIsas(), IsaTestName);

}  // namespace
}  // namespace paceline::kernels
