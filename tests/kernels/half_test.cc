#include "kernels/half.h"

#include <cmath>
#include <cstdint>

#include "gtest/gtest.h"
#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {
namespace {

TEST(HalfTest, EveryHalfWidensExactly) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const float f = HalfToFloat(static_cast<uint16_t>(h));
    if ((h & 0x7c00) == 0x7c00) {
      EXPECT_EQ(std::isinf(f), (h & 0x3ff) == 0) << h;
      EXPECT_EQ(std::isnan(f), (h & 0x3ff) != 0) << h;
    } else {
      EXPECT_EQ(f, HalfValue(static_cast<uint16_t>(h))) << h;
    }
    EXPECT_EQ(std::signbit(f), h >> 15 != 0) << h;
  }
}

TEST(HalfTest, EveryHalfSurvivesTheRoundTrip) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const uint32_t back = FloatToHalf(HalfToFloat(static_cast<uint16_t>(h)));
    const bool nan = (h & 0x7c00) == 0x7c00 && (h & 0x3ff) != 0;
    EXPECT_EQ(back, nan ? h | 0x200 : h);
  }
}

TEST(HalfTest, FloatsRoundToTheNearestHalfAndTiesToEven) {
  for (uint32_t h = 0; h < 0x7bff; ++h) {
    const double low = HalfValue(static_cast<uint16_t>(h));
    const double high = HalfValue(static_cast<uint16_t>(h + 1));
    const auto middle = static_cast<float>((low + high) / 2);
    EXPECT_EQ(FloatToHalf(middle), h % 2 == 0 ? h : h + 1) << h;
    EXPECT_EQ(FloatToHalf(std::nextafter(middle, 0.0f)), h) << h;
    EXPECT_EQ(FloatToHalf(std::nextafter(middle, 1e9f)), h + 1) << h;
    EXPECT_EQ(FloatToHalf(-std::nextafter(middle, 1e9f)), (h + 1) | 0x8000) << h;
  }
}

TEST(HalfTest, LargeFloatsBecomeInfinity) {
  EXPECT_EQ(FloatToHalf(65519.99f), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(-1e30f), 0xfc00);
  EXPECT_EQ(FloatToHalf(INFINITY), 0x7c00);
}

TEST(Bfloat16Test, EveryNumberSurvivesTheRoundTrip) {
  for (uint32_t b = 0; b < 65536; ++b) {
    const uint32_t exponent = b & 0x7f80;
    const bool nan = exponent == 0x7f80 && (b & 0x7f) != 0;
    const uint32_t expected = exponent == 0 ? b & 0x8000 : nan ? b | 0x40 : b;
    EXPECT_EQ(FloatToBfloat16(Bfloat16ToFloat(static_cast<uint16_t>(b))), expected);
  }
}

TEST(Bfloat16Test, FloatsRoundToTheNearestAndTiesToEven) {
  for (uint32_t b = 0x80; b < 0x7f7f; ++b) {
    const float low = Bfloat16ToFloat(static_cast<uint16_t>(b));
    const float high = Bfloat16ToFloat(static_cast<uint16_t>(b + 1));
    const float middle = low + (high - low) / 2;
    EXPECT_EQ(FloatToBfloat16(middle), b % 2 == 0 ? b : b + 1) << b;
    EXPECT_EQ(FloatToBfloat16(std::nextafter(middle, 0.0f)), b) << b;
    EXPECT_EQ(FloatToBfloat16(-std::nextafter(middle, INFINITY)), (b + 1) | 0x8000) << b;
  }
  EXPECT_EQ(FloatToBfloat16(3.4e38f), 0x7f80);
}

}  // namespace
}  // namespace paceline::kernels
