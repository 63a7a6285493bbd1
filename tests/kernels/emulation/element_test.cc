// 8-bit floating point as kernels convert it, in emulation, beside arithmetic.
#include "kernels/device/element.cuh"

#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/half.h"
#include "tests/kernels/emulation/device_array.h"
#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {
namespace {

using device::E4M3;

__device__ int Thread() { return device::BlockPosition().x * 32 + device::ThreadPosition().x; }

__global__ void EncodeKernel(const float* x, uint8_t* codes, int count) {
  if (Thread() < count) codes[Thread()] = E4M3::FromFloat(x[Thread()]);
}

template <typename T>
__global__ void DecodeKernel(const uint32_t* fours, uint32_t* pairs) {
  E4M3::Unpack<T>(fours[Thread()], pairs + 2 * Thread());
}

std::vector<uint8_t> Encode(const std::vector<float>& x) {
  const auto count = static_cast<int32_t>(x.size());
  DeviceArray<float> numbers(x);
  DeviceArray<uint8_t> codes(count);
  const absl::Status status = device::Launch(
      nullptr, {(count + 31) / 32}, {32}, 0, EncodeKernel, numbers.data(), codes.data(), count);
  EXPECT_TRUE(status.ok()) << status;
  return codes.ToVector();
}

TEST(E4M3Test, RoundsToTheNearest) {
  std::vector<float> numbers = {0.0f, -0.0f, 449.0f, 464.0f, 465.0f, 1e30f, 1e-30f};
  for (int code = 0; code < 0x7e; ++code) {
    const auto value = static_cast<float>(E4M3Value(static_cast<uint8_t>(code)));
    const auto next = static_cast<float>(E4M3Value(static_cast<uint8_t>(code + 1)));
    const float middle = (value + next) / 2;  // exact
    for (const float x : {value, middle, next}) {
      numbers.push_back(x);
      numbers.push_back(std::nextafter(x, 0.0f));
      numbers.push_back(std::nextafter(x, 500.0f));
    }
  }
  for (const float x : RandomFloats(1000, 1)) numbers.push_back(x);
  for (const float x : RandomFloats(1000, 2, 200.0f)) numbers.push_back(x);
  for (const float x : RandomFloats(1000, 3, 0.01f)) numbers.push_back(x);
  for (size_t i = 0, count = numbers.size(); i < count; ++i) numbers.push_back(-numbers[i]);
  const std::vector<uint8_t> codes = Encode(numbers);
  for (size_t i = 0; i < numbers.size(); ++i) {
    ASSERT_EQ(codes[i], NearestE4M3(numbers[i])) << numbers[i];
  }
}

TEST(E4M3Test, WhatIsNoNumberStaysNone) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(Encode({kInfinity, -kInfinity, std::nanf("")}),
            (std::vector<uint8_t>{0x7e, 0xfe, 0x7f}));
}

// Every code, in every place of four, as bf16 and f16.
template <typename T>
void ExpectExact(double (*value_of)(uint16_t)) {
  std::vector<uint32_t> fours;
  for (uint32_t code = 0; code < 256; ++code) {
    fours.push_back(code | (255 - code) << 8 | (code ^ 0x55) << 16 | ((code + 7) & 255) << 24);
  }
  DeviceArray<uint32_t> in(fours), out(2 * 256);
  ASSERT_TRUE(device::Launch(nullptr, {8}, {32}, 0, DecodeKernel<T>, in.data(), out.data()).ok());
  for (int i = 0; i < 4 * 256; ++i) {
    const auto code = static_cast<uint8_t>(fours[i / 4] >> 8 * (i % 4));
    const auto bits = static_cast<uint16_t>(out[i / 2] >> 16 * (i % 2));
    ASSERT_EQ(value_of(bits), E4M3Value(code)) << int{code};
    ASSERT_EQ(bits >> 15, code >> 7) << "zeros have a sign, too";
  }
}

TEST(E4M3Test, EveryCodeIsExactInBothTypes) {
  ExpectExact<device::F16>(HalfValue);
  ExpectExact<device::Bf16>([](uint16_t bits) -> double { return Bfloat16ToFloat(bits); });
}

}  // namespace
}  // namespace paceline::kernels
