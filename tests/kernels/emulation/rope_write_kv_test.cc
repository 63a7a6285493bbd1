// RoPE and the KV write for CUDA, in emulation, beside double precision.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/half.h"
#include "kernels/rope/rope_write_kv_device.h"
#include "tests/kernels/emulation/device_array.h"
#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {
namespace {

constexpr int32_t kRows = 5, kHeads = 6, kKvHeads = 2, kPages = 4, kPageSize = 8,
                  kMaxPositions = 64;

struct Case {
  int32_t head_dim;
  int32_t rotary_dim;
  RopeStyle style;
};

class RopeWriteKvTest : public testing::TestWithParam<Case> {};

TEST_P(RopeWriteKvTest, TurnsQueriesAndKeysAndStoresKeysAndValues) {
  const auto [head_dim, rotary_dim, style] = GetParam();
  const int32_t half = rotary_dim / 2;
  const int64_t width = (kHeads + 2 * kKvHeads) * head_dim;
  std::vector<uint16_t> qkv;
  for (const float value : RandomFloats(kRows * width, 1)) qkv.push_back(FloatToHalf(value));
  std::vector<float> angles;
  for (int32_t p = 0; p < kMaxPositions; ++p) {
    for (int32_t i = 0; i < half; ++i) angles.push_back(std::cos(p * std::pow(0.3, i)));
    for (int32_t i = 0; i < half; ++i) angles.push_back(std::sin(p * std::pow(0.3, i)));
  }
  const std::vector<int32_t> positions = {0, 63, 7, 8, 30};
  const std::vector<int64_t> slots = {31, 0, 9, 17, 18};
  DeviceArray<uint16_t> x(qkv), kv(kPages * kKvHeads * 2 * kPageSize * head_dim);
  DeviceArray<float> table(angles);
  DeviceArray<int32_t> where(positions);
  DeviceArray<int64_t> to(slots);
  const absl::Status status = RopeWriteKv(nullptr,
                                          {.qkv = x.data(),
                                           .angles = table.data(),
                                           .positions = where.data(),
                                           .slots = to.data(),
                                           .kv = kv.data(),
                                           .rows = kRows,
                                           .num_heads = kHeads,
                                           .num_kv_heads = kKvHeads,
                                           .head_dim = head_dim,
                                           .rotary_dim = rotary_dim,
                                           .page_size = kPageSize,
                                           .style = style,
                                           .dtype = DType::kF16,
                                           .kv_dtype = DType::kF16});
  ASSERT_TRUE(status.ok()) << status;
  // What element `d` of a head becomes.
  const auto expected = [&](int32_t row, int32_t head, int32_t d) -> double {
    const uint16_t* const bits = qkv.data() + row * width + head * head_dim;
    const auto at = [&](int32_t i) -> double { return HalfToFloat(bits[i]); };
    if (head >= kHeads + kKvHeads || d >= rotary_dim) return at(d);
    const bool halves = style == RopeStyle::kHalf;
    const int32_t pair = halves ? d % half : d / 2;
    const double angle = positions[row] * std::pow(0.3, pair);
    const int32_t first = halves ? pair : 2 * pair;
    const int32_t second = halves ? pair + half : 2 * pair + 1;
    return d == first ? at(first) * std::cos(angle) - at(second) * std::sin(angle)
                      : at(first) * std::sin(angle) + at(second) * std::cos(angle);
  };
  for (int32_t row = 0; row < kRows; ++row) {
    for (int32_t head = 0; head < kHeads + 2 * kKvHeads; ++head) {
      const int32_t value = head >= kHeads + kKvHeads ? 1 : 0;
      const int32_t kv_head = head - kHeads - value * kKvHeads;
      for (int32_t d = 0; d < head_dim; ++d) {
        const int64_t page = slots[row] / kPageSize, token = slots[row] % kPageSize;
        const int64_t in_cache =
            (((page * kKvHeads + kv_head) * 2 + value) * kPageSize + token) * head_dim + d;
        const uint16_t bits = head < kHeads ? x[row * width + head * head_dim + d] : kv[in_cache];
        ASSERT_NEAR(HalfToFloat(bits), expected(row, head, d), 1e-3)
            << row << " " << head << " " << d;
      }
    }
  }
  int64_t written = 0;
  for (const uint16_t bits : kv.ToVector()) written += bits != 0xffff ? 1 : 0;
  EXPECT_EQ(written, kRows * 2 * kKvHeads * head_dim) << "nothing else";
}

// By a quarter turn, so that the numbers stay what they are: (a, b) becomes (-b, a).
TEST(RopeWriteInt8KvTest, StoresHeadsWithScalesOfTheirOwn) {
  for (const int32_t head_dim : {64, 80, 256}) {
    const int64_t width = (kHeads + 2 * kKvHeads) * head_dim;
    const int64_t head_bytes = kPageSize * (head_dim + 4);
    std::vector<uint16_t> qkv;
    for (const float value : RandomFloats(kRows * width, 2)) qkv.push_back(FloatToHalf(value));
    const int64_t first_key = kHeads * head_dim;
    // Row 1, key of head 0: zeros; its value: not a number.
    std::fill_n(qkv.begin() + width + first_key, head_dim, 0);
    qkv[width + (kHeads + kKvHeads) * head_dim + 3] = 0x7e00;
    const std::vector<int32_t> positions(kRows, 0);
    const std::vector<int64_t> slots = {31, 0, 9, 17, 18};
    DeviceArray<uint16_t> x(qkv);
    DeviceArray<uint8_t> kv(kPages * kKvHeads * 2 * head_bytes);
    DeviceArray<int32_t> where(positions);
    DeviceArray<int64_t> to(slots);
    DeviceArray<float> angles(std::vector<float>{0, 0, 1, 1});
    const absl::Status status = RopeWriteKv(nullptr,
                                            {.qkv = x.data(),
                                             .angles = angles.data(),
                                             .positions = where.data(),
                                             .slots = to.data(),
                                             .kv = kv.data(),
                                             .rows = kRows,
                                             .num_heads = kHeads,
                                             .num_kv_heads = kKvHeads,
                                             .head_dim = head_dim,
                                             .rotary_dim = 4,
                                             .page_size = kPageSize,
                                             .style = RopeStyle::kHalf,
                                             .dtype = DType::kF16,
                                             .kv_dtype = DType::kI8});
    ASSERT_TRUE(status.ok()) << status;
    for (int32_t row = 0; row < kRows; ++row) {
      for (int32_t head = 0; head < kHeads + kKvHeads; ++head) {
        uint16_t* const bits = &qkv[row * width + head * head_dim];
        for (const int32_t d : {0, 1}) {
          const uint16_t a = bits[d];
          bits[d] = FloatToHalf(-HalfToFloat(bits[d + 2]));
          bits[d + 2] = a;
        }
      }
      for (int64_t i = row * width; i < row * width + first_key; ++i) {
        ASSERT_EQ(HalfToFloat(x[i]), HalfToFloat(qkv[i])) << i;
      }
      for (int32_t part = 0; part < 2 * kKvHeads; ++part) {
        const int32_t head = part % 2 * kKvHeads + part / 2;  // keys of all, then values
        const uint16_t* const from =
            qkv.data() + row * width + first_key + int64_t{head} * head_dim;
        const int64_t page = slots[row] / kPageSize * kKvHeads * 2 + part;
        const uint8_t* const stored = kv.data() + page * head_bytes;
        const int64_t token = slots[row] % kPageSize;
        float scale;
        std::memcpy(&scale, stored + kPageSize * head_dim + token * 4, 4);
        if (row == 1 && part == 1) {
          EXPECT_TRUE(std::isnan(scale));
          continue;
        }
        float largest = 0;
        for (int32_t d = 0; d < head_dim; ++d) {
          largest = std::max(largest, std::fabs(HalfToFloat(from[d])));
        }
        EXPECT_FLOAT_EQ(scale, largest / 127) << row << " " << part;
        for (int32_t d = 0; d < head_dim; ++d) {
          const auto byte = static_cast<int8_t>(stored[token * head_dim + d]);
          ASSERT_NEAR(byte * scale, HalfToFloat(from[d]), 0.501f * scale) << row << " " << part;
        }
      }
    }
    int64_t untouched = 0;
    for (const uint8_t byte : kv.ToVector()) untouched += byte == 0xff ? 1 : 0;
    EXPECT_GE(untouched, (kPages * kPageSize - kRows) * kKvHeads * 2 * (head_dim + 4));
  }
}

TEST(RopeWriteKvPaddingTest, ARowWithoutASlotIsLeftAlone) {
  for (const DType kv_dtype : {DType::kF16, DType::kI8}) {
    DeviceArray<uint16_t> x(2 * 3 * 64);
    DeviceArray<uint8_t> kv(2 * kPageSize * 2 * 64);
    DeviceArray<float> angles(std::vector<float>{0, 0, 1, 1});
    DeviceArray<int32_t> positions(std::vector<int32_t>{-1, -1});
    DeviceArray<int64_t> slots(std::vector<int64_t>{-1, -1});
    const absl::Status status = RopeWriteKv(nullptr,
                                            {.qkv = x.data(),
                                             .angles = angles.data(),
                                             .positions = positions.data(),
                                             .slots = slots.data(),
                                             .kv = kv.data(),
                                             .rows = 2,
                                             .num_heads = 1,
                                             .num_kv_heads = 1,
                                             .head_dim = 64,
                                             .rotary_dim = 4,
                                             .page_size = kPageSize,
                                             .style = RopeStyle::kHalf,
                                             .dtype = DType::kF16,
                                             .kv_dtype = kv_dtype});
    ASSERT_TRUE(status.ok()) << status;
    for (const uint16_t bits : x.ToVector()) ASSERT_EQ(bits, 0xffff);
    for (const uint8_t byte : kv.ToVector()) ASSERT_EQ(byte, 0xff);
  }
}

TEST(RopeWriteKvSizesTest, WrongSizesAreInvalid) {
  EXPECT_EQ(RopeWriteKv(nullptr, {.rows = 1, .head_dim = 7}).code(),
            absl::StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Styles,
                         RopeWriteKvTest,
                         testing::Values(Case{64, 64, RopeStyle::kInterleaved},
                                         Case{64, 64, RopeStyle::kHalf},
                                         Case{80, 32, RopeStyle::kHalf},
                                         Case{96, 48, RopeStyle::kInterleaved}),
                         [](const auto& info) {
                           return std::string(info.param.style == RopeStyle::kHalf ? "Half"
                                                                                   : "Turns") +
                                  std::to_string(info.param.head_dim);
                         });

}  // namespace
}  // namespace paceline::kernels
