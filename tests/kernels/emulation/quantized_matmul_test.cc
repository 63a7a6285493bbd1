// The quantised matmul for CUDA, in emulation, beside double precision.
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/emulation/grid.h"
#include "kernels/gemm/quantized_matmul_device.h"
#include "kernels/half.h"
#include "tests/kernels/emulation/device_array.h"
#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {
namespace {

// Bits of x as bf16, and the numbers that they are.
std::vector<uint16_t> Rounded(std::vector<float>& x) {
  std::vector<uint16_t> bits;
  for (float& value : x) {
    bits.push_back(FloatToBfloat16(value));
    value = Bfloat16ToFloat(bits.back());
  }
  return bits;
}

struct Weights {
  explicit Weights(const TestWeights& w)
      : packed(PackQ4(w.format, w.bytes.data(), w.n, w.k)),
        nibbles(packed.nibbles),
        scales(packed.scales),
        n(static_cast<int32_t>(w.n)),
        k(static_cast<int32_t>(w.k)) {}
  DeviceQ4Matrix view() { return {nibbles.data(), scales.data(), n, k}; }
  PackedQ4 packed;
  DeviceArray<uint8_t> nibbles;
  DeviceArray<uint16_t> scales;
  int32_t n, k;
};

std::vector<float> Multiply(Weights& w,
                            const std::vector<uint16_t>& x,
                            int32_t rows,
                            bool accumulate) {
  DeviceArray<uint16_t> input(x);
  DeviceArray<float> y(std::vector<float>(rows * w.n, 0.25f));
  const absl::Status status = QuantizedMatmul(nullptr,
                                              {.x = input.data(),
                                               .w = w.view(),
                                               .y = y.data(),
                                               .rows = rows,
                                               .accumulate = accumulate,
                                               .dtype = DType::kBF16});
  EXPECT_TRUE(status.ok()) << status;
  return y.ToVector();
}

TEST(QuantizedMatmulTest, MatchesDoublePrecisionForAnyNumberOfRows) {
  for (const WeightFormat format : {WeightFormat::kQ4_1, WeightFormat::kQ4_0}) {
    for (const int64_t k : {32, 576, 1536}) {
      const TestWeights weights = RandomWeights(format, 21, k, 3);
      Weights w(weights);
      for (const int32_t rows : {1, 2, 7, 8, 9, 31, 32, 33, 70}) {
        emulation::SetSeed(rows);
        std::vector<float> x = RandomFloats(rows * k, 4);
        const std::vector<float> y = Multiply(w, Rounded(x), rows, /*accumulate=*/false);
        for (int32_t i = 0; i < rows; ++i) {
          for (int32_t j = 0; j < w.n; ++j) {
            double sum = 0;
            double magnitude = 0;
            for (int64_t c = 0; c < k; ++c) {
              const double product = weights.values[j * k + c] * x[i * k + c];
              sum += product;
              magnitude += std::fabs(product);
            }
            // The minimum's part is as large as the products': both are rounded.
            ASSERT_NEAR(y[i * w.n + j], sum, 4e-6 * magnitude + 1e-6)
                << i << " " << j << " k " << k;
          }
        }
      }
    }
  }
}

TEST(QuantizedMatmulTest, ARowsBitsDoNotDependOnTheOthers) {
  Weights w(RandomWeights(WeightFormat::kQ4_1, 40, 576, 5));
  constexpr int32_t kRows = 45;
  std::vector<float> x = RandomFloats(kRows * 576, 6);
  const std::vector<uint16_t> bits = Rounded(x);
  const std::vector<float> together = Multiply(w, bits, kRows, /*accumulate=*/true);
  for (int32_t i = 0; i < kRows; ++i) {
    const std::vector<uint16_t> row(bits.begin() + i * 576, bits.begin() + (i + 1) * 576);
    const std::vector<float> alone = Multiply(w, row, 1, /*accumulate=*/true);
    EXPECT_TRUE(SameBits(alone.data(), together.data() + i * w.n, w.n)) << i;
  }
}

TEST(QuantizedMatmulTest, WrongSizesAreInvalid) {
  Weights w(RandomWeights(WeightFormat::kQ4_1, 4, 32, 7));
  EXPECT_EQ(QuantizedMatmul(nullptr, {.w = w.view(), .rows = 0, .dtype = DType::kF16}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(QuantizedMatmul(nullptr, {.w = w.view(), .rows = 1, .dtype = DType::kF32}).code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace paceline::kernels
