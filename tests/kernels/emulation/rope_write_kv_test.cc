// RoPE and the KV write for CUDA, in emulation, beside double precision.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/half.h"
#include "kernels/norm/rms_norm.h"
#include "kernels/rope/rope.h"
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
  bool norms_queries = false;
  bool norms_keys = false;
};

constexpr float kEps = 1e-3f;

// What calls have in common, on the device.
struct Inputs {
  DeviceArray<uint16_t> qkv;
  DeviceArray<float> angles;
  DeviceArray<int32_t> positions;
  DeviceArray<int64_t> slots;

  RopeWriteKvArgs Args(void* kv, int32_t head_dim, int32_t rotary_dim) {
    return {.qkv = qkv.data(),
            .angles = angles.data(),
            .positions = positions.data(),
            .slots = slots.data(),
            .kv = kv,
            .rows = kRows,
            .num_heads = kHeads,
            .num_kv_heads = kKvHeads,
            .head_dim = head_dim,
            .rotary_dim = rotary_dim,
            .page_size = kPageSize,
            .style = RopeStyle::kHalf,
            .dtype = DType::kF16,
            .kv_dtype = DType::kF16};
  }
};

class RopeWriteKvTest : public testing::TestWithParam<Case> {};

TEST_P(RopeWriteKvTest, TurnsQueriesAndKeysAndStoresKeysAndValues) {
  const auto [head_dim, rotary_dim, style, norms_queries, norms_keys] = GetParam();
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
  const std::vector<float> q_norm = RandomFloats(head_dim, 3), k_norm = RandomFloats(head_dim, 4);
  Inputs in{DeviceArray(qkv), DeviceArray(angles), DeviceArray(positions), DeviceArray(slots)};
  DeviceArray<float> q_weight(q_norm), k_weight(k_norm);
  DeviceArray<uint16_t> kv(kPages * kKvHeads * 2 * kPageSize * head_dim);
  RopeWriteKvArgs args = in.Args(kv.data(), head_dim, rotary_dim);
  args.style = style;
  args.q_norm = norms_queries ? q_weight.data() : nullptr;
  args.k_norm = norms_keys ? k_weight.data() : nullptr;
  args.norm_eps = kEps;
  const absl::Status status = RopeWriteKv(nullptr, args);
  ASSERT_TRUE(status.ok()) << status;
  // What element `d` of a head becomes.
  const auto expected = [&](int32_t row, int32_t head, int32_t d) -> double {
    const uint16_t* const bits = qkv.data() + row * width + head * head_dim;
    const bool is_query = head < kHeads;
    const bool is_key = !is_query && head < kHeads + kKvHeads;
    double rms = kEps;
    for (int32_t i = 0; i < head_dim; ++i) {
      rms += static_cast<double>(HalfToFloat(bits[i])) * HalfToFloat(bits[i]) / head_dim;
    }
    const auto at = [&](int32_t i) -> double {
      const double x = HalfToFloat(bits[i]);
      if (is_query && norms_queries) return x / std::sqrt(rms) * q_norm[i];
      return is_key && norms_keys ? x / std::sqrt(rms) * k_norm[i] : x;
    };
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
        const uint16_t bits =
            head < kHeads ? in.qkv[row * width + head * head_dim + d] : kv[in_cache];
        const double wanted = expected(row, head, d);
        ASSERT_NEAR(HalfToFloat(bits), wanted, 1e-3 + 5e-4 * std::fabs(wanted))
            << row << " " << head << " " << d;
      }
    }
  }
  int64_t written = 0;
  for (const uint16_t bits : kv.ToVector()) written += bits != 0xffff ? 1 : 0;
  EXPECT_EQ(written, kRows * 2 * kKvHeads * head_dim) << "nothing else";
}

// By a quarter turn, so that the numbers stay what they are: (a, b) becomes (-b, a).
class RopeWriteScaledKvTest : public testing::TestWithParam<DType> {};

TEST_P(RopeWriteScaledKvTest, StoresHeadsWithScalesOfTheirOwn) {
  const bool int8 = GetParam() == DType::kI8;
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
    Inputs in{DeviceArray(qkv),
              DeviceArray(std::vector<float>{0, 0, 1, 1}),
              DeviceArray(positions),
              DeviceArray(slots)};
    DeviceArray<uint8_t> kv(kPages * kKvHeads * 2 * head_bytes);
    RopeWriteKvArgs args = in.Args(kv.data(), head_dim, 4);
    args.kv_dtype = GetParam();
    const absl::Status status = RopeWriteKv(nullptr, args);
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
        ASSERT_EQ(HalfToFloat(in.qkv[i]), HalfToFloat(qkv[i])) << i;
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
        EXPECT_FLOAT_EQ(scale, largest / (int8 ? 127 : 448)) << row << " " << part;
        for (int32_t d = 0; d < head_dim; ++d) {
          const uint8_t code = stored[token * head_dim + d];
          const float wanted = HalfToFloat(from[d]);
          const double stored_as = int8 ? static_cast<int8_t>(code) : E4M3Value(code);
          // Half a step: of E4M3 a sixteenth, or 2^-10 of what is smallest.
          const double step = int8 ? scale : std::max(std::fabs(wanted) / 8, scale / 512);
          ASSERT_NEAR(stored_as * scale, wanted, 0.501 * step) << row << " " << part;
        }
      }
    }
    int64_t untouched = 0;
    for (const uint8_t byte : kv.ToVector()) untouched += byte == 0xff ? 1 : 0;
    EXPECT_GE(untouched, (kPages * kPageSize - kRows) * kKvHeads * 2 * (head_dim + 4));
  }
}

// What the CPU's kernels make of the same numbers, rounded.
TEST(RopeWriteKvCpuTest, EqualsTheCpusNormsAndTurns) {
  constexpr int32_t kDim = 128;
  const int64_t q_size = kHeads * kDim, kv_size = kKvHeads * kDim;
  std::vector<uint16_t> qkv;
  for (const float value : RandomFloats(kRows * (q_size + 2 * kv_size), 8)) {
    qkv.push_back(FloatToHalf(value));
  }
  const std::vector<float> q_norm = RandomFloats(kDim, 9), k_norm = RandomFloats(kDim, 10);
  const std::vector<int32_t> positions = {3, 0, 63, 12, 13};
  const std::vector<int64_t> slots = {0, 1, 2, 3, 4};
  const RopeTable angles =
      *RopeTable::Create({.rotary_dim = kDim, .max_positions = kMaxPositions, .theta = 1e6});
  ThreadPool pool(1, false);
  const auto on_cpu = [&](int64_t first, int64_t size, const std::vector<float>& weight) {
    std::vector<float> x;
    for (int32_t row = 0; row < kRows; ++row) {
      for (int64_t i = 0; i < size; ++i) {
        x.push_back(HalfToFloat(qkv[row * (q_size + 2 * kv_size) + first + i]));
      }
    }
    const MutableMatrix heads(x.data(), kRows * size / kDim, kDim);
    EXPECT_TRUE(RmsNorm(pool, heads, weight, kEps, heads).ok());
    EXPECT_TRUE(
        ApplyRope(
            pool, angles, RopeStyle::kHalf, positions, kDim, MutableMatrix(x.data(), kRows, size))
            .ok());
    return x;
  };
  const std::vector<float> queries = on_cpu(0, q_size, q_norm);
  const std::vector<float> keys = on_cpu(q_size, kv_size, k_norm);
  const float* const cosines = angles.cos_row(0);
  Inputs in{DeviceArray(qkv),
            DeviceArray(std::vector<float>(cosines, cosines + int64_t{kMaxPositions} * kDim)),
            DeviceArray(positions),
            DeviceArray(slots)};
  DeviceArray<float> q_weight(q_norm), k_weight(k_norm);
  DeviceArray<uint16_t> kv(kKvHeads * 2 * kPageSize * kDim);
  RopeWriteKvArgs args = in.Args(kv.data(), kDim, kDim);
  args.q_norm = q_weight.data();
  args.k_norm = k_weight.data();
  args.norm_eps = kEps;
  const absl::Status status = RopeWriteKv(nullptr, args);
  ASSERT_TRUE(status.ok()) << status;
  const auto expect_near = [](uint16_t bits, float expected) {
    ASSERT_NEAR(HalfToFloat(bits), expected, 1e-5 + std::fabs(expected) / 1024);
  };
  for (int32_t row = 0; row < kRows; ++row) {
    for (int64_t i = 0; i < q_size; ++i) {
      expect_near(in.qkv[row * (q_size + 2 * kv_size) + i], queries[row * q_size + i]);
    }
    for (int64_t i = 0; i < kv_size; ++i) {
      expect_near(kv[(i / kDim * 2 * kPageSize + row) * kDim + i % kDim], keys[row * kv_size + i]);
    }
  }
}

TEST(RopeWriteKvPaddingTest, ARowWithoutASlotIsLeftAlone) {
  for (const DType kv_dtype : {DType::kF16, DType::kI8, DType::kE4M3}) {
    Inputs in{DeviceArray<uint16_t>(kRows * (kHeads + 2 * kKvHeads) * 64),
              DeviceArray(std::vector<float>{0, 0, 1, 1}),
              DeviceArray(std::vector<int32_t>(kRows, -1)),
              DeviceArray(std::vector<int64_t>(kRows, -1))};
    DeviceArray<uint8_t> kv(kKvHeads * 2 * kPageSize * 2 * 64);
    RopeWriteKvArgs args = in.Args(kv.data(), 64, 4);
    args.kv_dtype = kv_dtype;
    const absl::Status status = RopeWriteKv(nullptr, args);
    ASSERT_TRUE(status.ok()) << status;
    for (const uint16_t bits : in.qkv.ToVector()) ASSERT_EQ(bits, 0xffff);
    for (const uint8_t byte : kv.ToVector()) ASSERT_EQ(byte, 0xff);
  }
}

TEST(RopeWriteKvSizesTest, WrongSizesAreInvalid) {
  EXPECT_EQ(RopeWriteKv(nullptr, {.rows = 1, .head_dim = 7}).code(),
            absl::StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Types,
                         RopeWriteScaledKvTest,
                         testing::Values(DType::kI8, DType::kE4M3),
                         [](const auto& info) {
                           return info.param == DType::kI8 ? "Int8" : "Fp8";
                         });

INSTANTIATE_TEST_SUITE_P(Styles,
                         RopeWriteKvTest,
                         testing::Values(Case{64, 64, RopeStyle::kInterleaved},
                                         Case{64, 64, RopeStyle::kHalf},
                                         Case{80, 32, RopeStyle::kHalf},
                                         Case{96, 48, RopeStyle::kInterleaved},
                                         Case{128, 128, RopeStyle::kHalf, true, true},
                                         Case{80, 64, RopeStyle::kInterleaved, true, false},
                                         Case{256, 256, RopeStyle::kHalf, false, true}),
                         [](const auto& info) {
                           const Case& c = info.param;
                           return std::string(c.style == RopeStyle::kHalf ? "Half" : "Turns") +
                                  std::to_string(c.head_dim) + (c.norms_queries ? "QNorm" : "") +
                                  (c.norms_keys ? "KNorm" : "");
                         });

}  // namespace
}  // namespace paceline::kernels
