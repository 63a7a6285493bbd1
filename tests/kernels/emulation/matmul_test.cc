// The matmul for CUDA, in emulation, beside double precision.
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/emulation/grid.h"
#include "kernels/gemm/matmul_device.h"
#include "kernels/half.h"
#include "tests/kernels/emulation/device_array.h"
#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {
namespace {

uint16_t ToBits(float x, DType dtype) {
  return dtype == DType::kF16 ? FloatToHalf(x) : FloatToBfloat16(x);
}
float ToFloat(uint16_t bits, DType dtype) {
  return dtype == DType::kF16 ? HalfToFloat(bits) : Bfloat16ToFloat(bits);
}

// Weights on the device, and what they are.
struct Weights {
  Weights(WeightFormat format, int32_t n, int32_t k, DType dtype, uint32_t seed)
      : Weights(RandomWeights(format, n, k, seed), dtype) {}
  Weights(const TestWeights& w, DType dtype)
      : exact(w.values),
        packed(*PackForDevice(w.format, {{w.bytes.data(), w.n}}, w.k, dtype)),
        values(packed.values),
        scales(packed.scales) {
    const bool rounded = packed.scales.empty();
    for (double& value : exact) {
      if (rounded) value = ToFloat(ToBits(static_cast<float>(value), dtype), dtype);
    }
  }
  DeviceMatrix view() { return {packed.format, values.data(), scales.data(), packed.n, packed.k}; }

  std::vector<double> exact;  // [n, k]
  PackedDeviceMatrix packed;
  DeviceArray<uint8_t> values;
  DeviceArray<uint16_t> scales;
};

struct Input {
  Input(int32_t rows, int32_t k, DType dtype, uint32_t seed) : rows(rows) {
    for (const float x : RandomFloats(int64_t{rows} * k, seed)) bits.push_back(ToBits(x, dtype));
  }
  std::vector<uint16_t> bits;
  int32_t rows;
};

struct Sum {
  double value = 0;
  double magnitude = 0;
};
Sum Textbook(const Weights& w, const Input& x, DType dtype, int32_t row, int32_t n) {
  Sum sum;
  for (int32_t c = 0; c < w.packed.k; ++c) {
    const double product = w.exact[int64_t{n} * w.packed.k + c] *
                           ToFloat(x.bits[int64_t{row} * w.packed.k + c], dtype);
    sum.value += product;
    sum.magnitude += std::fabs(product);
  }
  return sum;
}

constexpr float kBefore = 0.25f;  // what is in y

std::vector<float> Multiply(Weights& w, const Input& x, DType dtype, bool accumulate = false) {
  DeviceArray<uint16_t> input(x.bits);
  DeviceArray<float> y(std::vector<float>(x.rows * w.packed.n, kBefore));
  const absl::Status status = DeviceMatmul(nullptr,
                                           {.x = input.data(),
                                            .w = w.view(),
                                            .y = y.data(),
                                            .rows = x.rows,
                                            .accumulate = accumulate,
                                            .dtype = dtype,
                                            .y_dtype = DType::kF32});
  EXPECT_TRUE(status.ok()) << status;
  return y.ToVector();
}

class DeviceMatmulTest : public testing::TestWithParam<std::tuple<WeightFormat, DType>> {
 protected:
  WeightFormat format() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }
};

TEST_P(DeviceMatmulTest, MatchesDoublePrecisionForAnyNumberOfRows) {
  for (const int32_t k : {32, 576, 1056}) {
    Weights w(format(), 21, k, dtype(), 3);
    for (const int32_t rows : {1, 2, 7, 8, 9, 33, 63, 64, 130}) {
      if (k > 32 && rows != 1 && rows != 33 && rows != 64) continue;
      emulation::SetSeed(rows);
      const Input x(rows, k, dtype(), 4);
      const std::vector<float> y = Multiply(w, x, dtype());
      for (int32_t i = 0; i < rows; ++i) {
        for (int32_t j = 0; j < w.packed.n; ++j) {
          const Sum sum = Textbook(w, x, dtype(), i, j);
          // A minimum's part is as large as the products': both are rounded.
          ASSERT_NEAR(y[i * w.packed.n + j], sum.value, 4e-6 * sum.magnitude + 1e-6)
              << i << " " << j << " k " << k;
        }
      }
    }
  }
}

// 45 and 150 rows are computed by different kernels, and 140 rows of w by several thread blocks.
TEST_P(DeviceMatmulTest, ARowsBitsDoNotDependOnTheOthers) {
  constexpr int32_t kK = 288;
  Weights w(format(), 140, kK, dtype(), 5);
  for (const int32_t rows : {45, 150}) {
    Input x(rows, kK, dtype(), 6);
    emulation::SetSeed(rows);
    const std::vector<float> together = Multiply(w, x, dtype(), /*accumulate=*/true);
    for (int32_t i = 0; i < rows; i += 13) {
      emulation::SetSeed(i + 9);
      Input row(1, kK, dtype(), 0);
      row.bits.assign(x.bits.begin() + i * kK, x.bits.begin() + (i + 1) * kK);
      const std::vector<float> alone = Multiply(w, row, dtype(), /*accumulate=*/true);
      EXPECT_TRUE(SameBits(alone.data(), together.data() + i * w.packed.n, w.packed.n))
          << i << " of " << rows;
    }
  }
}

TEST_P(DeviceMatmulTest, AddsABiasAndWhatIsThere) {
  constexpr int32_t kRows = 3, kN = 18, kK = 64, kStride = 50;
  Weights w(format(), kN, kK, dtype(), 7);
  const Input x(kRows, kK, dtype(), 8);
  const std::vector<float> bias = RandomFloats(kN, 9);
  DeviceArray<uint16_t> input(x.bits);
  DeviceArray<float> device_bias(bias), y(std::vector<float>(kRows * kStride, kBefore));
  const absl::Status status = DeviceMatmul(nullptr,
                                           {.x = input.data(),
                                            .w = w.view(),
                                            .bias = device_bias.data(),
                                            .y = y.data() + 2,
                                            .y_stride = kStride,
                                            .rows = kRows,
                                            .accumulate = true,
                                            .dtype = dtype(),
                                            .y_dtype = DType::kF32});
  ASSERT_TRUE(status.ok()) << status;
  for (int32_t i = 0; i < kRows; ++i) {
    for (int32_t c = 0; c < kStride; ++c) {
      const int32_t j = c - 2;
      const bool written = j >= 0 && j < kN;
      const Sum sum = written ? Textbook(w, x, dtype(), i, j) : Sum{};
      ASSERT_NEAR(y[i * kStride + c],
                  kBefore + (written ? sum.value + bias[j] : 0),
                  4e-6 * sum.magnitude + 1e-6)
          << i << " " << c;
    }
  }
}

TEST_P(DeviceMatmulTest, RoundsToTheTypeOfTheInput) {
  constexpr int32_t kRows = 9, kK = 96;
  Weights w(format(), 16, kK, dtype(), 10);
  const Input x(kRows, kK, dtype(), 11);
  DeviceArray<uint16_t> input(x.bits), y(kRows * w.packed.n);
  const absl::Status status = DeviceMatmul(nullptr,
                                           {.x = input.data(),
                                            .w = w.view(),
                                            .y = y.data(),
                                            .rows = kRows,
                                            .dtype = dtype(),
                                            .y_dtype = dtype()});
  ASSERT_TRUE(status.ok()) << status;
  const std::vector<float> exact = Multiply(w, x, dtype());
  for (size_t i = 0; i < exact.size(); ++i) ASSERT_EQ(y[i], ToBits(exact[i], dtype())) << i;
}

INSTANTIATE_TEST_SUITE_P(Formats,
                         DeviceMatmulTest,
                         testing::Combine(testing::Values(WeightFormat::kQ4_1,
                                                          WeightFormat::kQ4_0,
                                                          WeightFormat::kQ8_0,
                                                          WeightFormat::kBF16,
                                                          WeightFormat::kF16,
                                                          WeightFormat::kF32),
                                          testing::Values(DType::kBF16, DType::kF16)),
                         [](const auto& info) {
                           return std::string(WeightFormatName(std::get<0>(info.param))) +
                                  (std::get<1>(info.param) == DType::kF16 ? "WithF16" : "WithBF16");
                         });

// Slices and rows of several tensors, as tensor parallelism and fused projections take them.
TEST(PackForDeviceTest, TakesSlicesOfSeveralTensors) {
  const TestWeights a = RandomWeights(WeightFormat::kQ8_0, 5, 96, 12);
  const TestWeights b = RandomWeights(WeightFormat::kQ8_0, 19, 96, 13);
  constexpr int64_t kBlockBytes = 34, kRowBytes = 3 * kBlockBytes;
  TestWeights both{WeightFormat::kQ8_0, 24, 64, {}, {}};  // columns 32 to 95 of both
  for (const TestWeights* w : {&a, &b}) {
    for (int64_t row = 0; row < w->n; ++row) {
      const auto begin = w->bytes.begin() + row * kRowBytes;
      both.bytes.insert(both.bytes.end(), begin + kBlockBytes, begin + kRowBytes);
    }
  }
  const auto sliced = PackForDevice(WeightFormat::kQ8_0,
                                    {{a.bytes.data() + kBlockBytes, a.n, kRowBytes},
                                     {b.bytes.data() + kBlockBytes, b.n, kRowBytes}},
                                    64,
                                    DType::kF16);
  const auto whole =
      PackForDevice(WeightFormat::kQ8_0, {{both.bytes.data(), both.n}}, both.k, DType::kF16);
  ASSERT_TRUE(sliced.ok() && whole.ok());
  EXPECT_EQ(sliced->values, whole->values);
  EXPECT_EQ(sliced->scales, whole->scales);
}

TEST(PackForDeviceTest, WrongSizesAreInvalid) {
  EXPECT_FALSE(PackForDevice(WeightFormat::kF16, {{nullptr, 1}}, 33, DType::kF16).ok());
  EXPECT_FALSE(PackForDevice(WeightFormat::kF16, {}, 32, DType::kF16).ok());
  EXPECT_FALSE(PackForDevice(WeightFormat::kF16, {{nullptr, 1}}, 32, DType::kF32).ok());
}

TEST(DeviceMatmulSizesTest, WhatDoesNotFitIsInvalid) {
  const DeviceMatmulArgs good{.w = {.format = DeviceFormat::kBF16, .n = 4, .k = 32},
                              .rows = 1,
                              .dtype = DType::kBF16,
                              .y_dtype = DType::kF32};
  const auto code = [&](auto change) {
    DeviceMatmulArgs args = good;
    change(args);
    return DeviceMatmul(nullptr, args).code();
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code([](DeviceMatmulArgs& a) { a.rows = 0; }), kInvalid);
  EXPECT_EQ(code([](DeviceMatmulArgs& a) { a.w.k = 40; }), kInvalid);
  EXPECT_EQ(code([](DeviceMatmulArgs& a) { a.y_stride = 3; }), kInvalid);
  EXPECT_EQ(code([](DeviceMatmulArgs& a) { a.dtype = DType::kF32; }), kInvalid);
  EXPECT_EQ(code([](DeviceMatmulArgs& a) { a.dtype = DType::kF16; }), kInvalid);
  EXPECT_EQ(code([](DeviceMatmulArgs& a) { a.y_dtype = DType::kF16; }), kInvalid);
  EXPECT_EQ(code([](DeviceMatmulArgs& a) {
              a.y_dtype = DType::kBF16;
              a.accumulate = true;
            }),
            kInvalid);
}

}  // namespace
}  // namespace paceline::kernels
