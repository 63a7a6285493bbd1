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

}  // namespace
}  // namespace paceline::kernels
