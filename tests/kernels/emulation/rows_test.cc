// Row kernels for CUDA, in emulation, beside double precision.
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/activation/cast_device.h"
#include "kernels/activation/silu_mul_device.h"
#include "kernels/emulation/grid.h"
#include "kernels/half.h"
#include "kernels/norm/layer_norm_device.h"
#include "kernels/norm/rms_norm_device.h"
#include "tests/kernels/emulation/device_array.h"
#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {
namespace {

// `x` rounded to the type, as bits and as numbers.
uint16_t ToBits(float x, DType dtype) {
  return dtype == DType::kF16 ? FloatToHalf(x) : FloatToBfloat16(x);
}
float ToFloat(uint16_t bits, DType dtype) {
  return dtype == DType::kF16 ? HalfToFloat(bits) : Bfloat16ToFloat(bits);
}
double Tolerance(DType dtype) { return dtype == DType::kF16 ? 1.0 / 1024 : 1.0 / 128; }

class RowsTest : public testing::TestWithParam<DType> {};

TEST_P(RowsTest, RmsNormAddsAndNormalises) {
  for (const int64_t cols : {1, 31, 256, 576, 1000}) {
    for (const bool with_residual : {false, true}) {
      emulation::SetSeed(cols);
      constexpr int64_t kRows = 3;
      const std::vector<float> x = RandomFloats(kRows * cols, 1, 3.0f);
      const std::vector<float> residual = RandomFloats(kRows * cols, 2);
      const std::vector<float> weight = RandomFloats(cols, 3);
      DeviceArray<float> device_x(x), device_residual(residual), device_weight(weight);
      DeviceArray<uint16_t> out(kRows * cols);
      const absl::Status status =
          DeviceRmsNorm(nullptr,
                        {.x = device_x.data(),
                         .residual = with_residual ? device_residual.data() : nullptr,
                         .weight = device_weight.data(),
                         .out = out.data(),
                         .rows = kRows,
                         .cols = cols,
                         .eps = 1e-5f,
                         .dtype = GetParam()});
      ASSERT_TRUE(status.ok()) << status;
      for (int64_t row = 0; row < kRows; ++row) {
        double squares = 0;
        std::vector<double> sums(cols);
        for (int64_t i = 0; i < cols; ++i) {
          const int64_t at = row * cols + i;
          sums[i] = static_cast<double>(x[at]) + (with_residual ? residual[at] : 0.0f);
          squares += sums[i] * sums[i];
          ASSERT_NEAR(device_x[at], sums[i], 1e-6);
        }
        const double scale = 1 / std::sqrt(squares / static_cast<double>(cols) + 1e-5);
        for (int64_t i = 0; i < cols; ++i) {
          const double expected = sums[i] * scale * weight[i];
          ASSERT_NEAR(ToFloat(out[row * cols + i], GetParam()),
                      expected,
                      Tolerance(GetParam()) * std::fabs(expected) + 1e-6);
        }
      }
    }
  }
}

TEST_P(RowsTest, LayerNormAddsAndNormalises) {
  for (const int64_t cols : {1, 31, 256, 1000}) {
    for (const bool with_both : {false, true}) {  // residual and bias
      emulation::SetSeed(cols);
      constexpr int64_t kRows = 2;
      const std::vector<float> x = RandomFloats(kRows * cols, 11, 3.0f);
      const std::vector<float> residual = RandomFloats(kRows * cols, 12);
      const std::vector<float> weight = RandomFloats(cols, 13), bias = RandomFloats(cols, 14);
      DeviceArray<float> device_x(x), device_residual(residual), device_weight(weight),
          device_bias(bias);
      DeviceArray<uint16_t> out(kRows * cols);
      const absl::Status status =
          DeviceLayerNorm(nullptr,
                          {.x = device_x.data(),
                           .residual = with_both ? device_residual.data() : nullptr,
                           .weight = device_weight.data(),
                           .bias = with_both ? device_bias.data() : nullptr,
                           .out = out.data(),
                           .rows = kRows,
                           .cols = cols,
                           .eps = 1e-5f,
                           .dtype = GetParam()});
      ASSERT_TRUE(status.ok()) << status;
      for (int64_t row = 0; row < kRows; ++row) {
        std::vector<double> sums(cols);
        double mean = 0;
        for (int64_t i = 0; i < cols; ++i) {
          const int64_t at = row * cols + i;
          sums[i] = static_cast<double>(x[at]) + (with_both ? residual[at] : 0.0f);
          mean += sums[i] / static_cast<double>(cols);
          ASSERT_NEAR(device_x[at], sums[i], 1e-6);
        }
        double variance = 0;
        for (const double sum : sums) variance += (sum - mean) * (sum - mean);
        variance /= static_cast<double>(cols);
        for (int64_t i = 0; i < cols; ++i) {
          const double product = (sums[i] - mean) / std::sqrt(variance + 1e-5) * weight[i];
          const double expected = product + (with_both ? bias[i] : 0.0f);
          ASSERT_NEAR(ToFloat(out[row * cols + i], GetParam()),
                      expected,
                      Tolerance(GetParam()) * std::fabs(expected) + 1e-5);
        }
      }
    }
  }
}

TEST_P(RowsTest, GatedProductsMultiply) {
  const auto silu = [](double x) { return x / (1 + std::exp(-x)); };
  const auto gelu = [](double x) {
    return x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  };
  for (const int64_t cols : {1, 256, 1537}) {
    constexpr int64_t kRows = 2;
    std::vector<uint16_t> gate_up;
    for (const float value : RandomFloats(kRows * 2 * cols, 4, 4.0f)) {
      gate_up.push_back(ToBits(value, GetParam()));
    }
    DeviceArray<uint16_t> input(gate_up), by_silu(kRows * cols), by_gelu(kRows * cols);
    DeviceSiluMulArgs args{.gate_up = input.data(),
                           .out = by_silu.data(),
                           .rows = kRows,
                           .cols = cols,
                           .dtype = GetParam()};
    ASSERT_TRUE(DeviceSiluMul(nullptr, args).ok());
    args.out = by_gelu.data();
    ASSERT_TRUE(DeviceGeluMul(nullptr, args).ok());
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t i = 0; i < cols; ++i) {
        const double gate = ToFloat(gate_up[row * 2 * cols + i], GetParam());
        const double up = ToFloat(gate_up[row * 2 * cols + cols + i], GetParam());
        const auto expect = [&](uint16_t bits, double expected) {
          EXPECT_NEAR(ToFloat(bits, GetParam()),
                      expected,
                      Tolerance(GetParam()) * std::fabs(expected) + 1e-5);
        };
        expect(by_silu[row * cols + i], silu(gate) * up);
        expect(by_gelu[row * cols + i], gelu(gate) * up);
      }
    }
  }
}

TEST_P(RowsTest, RoundsAndWidens) {
  const std::vector<float> x = RandomFloats(1000, 5, 100.0f);
  DeviceArray<float> from(x), back(1000);
  DeviceArray<uint16_t> bits(1000);
  ASSERT_TRUE(DeviceRound(nullptr, from.data(), bits.data(), 1000, GetParam()).ok());
  ASSERT_TRUE(DeviceWiden(nullptr, bits.data(), back.data(), 1000, GetParam()).ok());
  for (int i = 0; i < 1000; ++i) {
    ASSERT_EQ(bits[i], ToBits(x[i], GetParam())) << i;
    ASSERT_NEAR(back[i], x[i], Tolerance(GetParam()) / 2 * std::fabs(x[i])) << i;
  }
}

TEST_P(RowsTest, WrongSizesAreInvalid) {
  const auto invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(DeviceRmsNorm(nullptr, {.rows = 0, .cols = 4, .dtype = GetParam()}).code(), invalid);
  EXPECT_EQ(DeviceRmsNorm(nullptr, {.rows = 1, .cols = 4, .dtype = DType::kF32}).code(), invalid);
  EXPECT_EQ(DeviceRound(nullptr, nullptr, nullptr, 0, GetParam()).code(), invalid);
  EXPECT_EQ(DeviceWiden(nullptr, nullptr, nullptr, 1, DType::kI8).code(), invalid);
  EXPECT_EQ(DeviceLayerNorm(nullptr, {.rows = 1, .dtype = GetParam()}).code(), invalid);
  EXPECT_EQ(DeviceSiluMul(nullptr, {.rows = 1, .cols = -4, .dtype = GetParam()}).code(), invalid);
}

INSTANTIATE_TEST_SUITE_P(Types,
                         RowsTest,
                         testing::Values(DType::kF16, DType::kBF16),
                         [](const auto& info) {
                           return info.param == DType::kF16 ? "F16" : "BF16";
                         });

}  // namespace
}  // namespace paceline::kernels
