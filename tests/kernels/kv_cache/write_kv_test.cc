#include "kernels/kv_cache/write_kv.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu/aligned_buffer.h"
#include "kernels/half.h"
#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {
namespace {

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

struct TestCache {
  explicit TestCache(DType dtype, int32_t num_blocks = 4)
      : memory(*AlignedBuffer::Allocate(num_blocks * Layout(dtype).BytesPerBlock())),
        view{memory.data(), num_blocks, Layout(dtype)} {}
  static KvLayout Layout(DType dtype) { return {2, 3, 48, dtype}; }

  AlignedBuffer memory;
  KvCacheView view;
};

float Read(const uint8_t* data, DType dtype, int64_t index) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, data + 4 * index, 4);
    return value;
  }
  uint16_t half;
  std::memcpy(&half, data + 2 * index, 2);
  return static_cast<float>(HalfValue(half));
}

class WriteKvTest : public IsaTest {
 protected:
  ThreadPool pool_{2, false};
};

TEST_P(WriteKvTest, EverySlotHoldsItsRow) {
  for (DType dtype : {DType::kF16, DType::kF32}) {
    TestCache cache(dtype);
    const std::vector<float> k = RandomFloats(40 * 144, 1), v = RandomFloats(40 * 144, 2);
    std::vector<int32_t> slots;
    for (int32_t i = 0; i < 40; ++i) slots.push_back((i * 37 + 5) % 128);  // all differ
    ASSERT_TRUE(
        WriteKv(pool_, Matrix(k.data(), 40, 144), Matrix(v.data(), 40, 144), slots, 1, cache.view)
            .ok());
    for (int32_t i = 0; i < 40; ++i) {
      for (int32_t h = 0; h < 3; ++h) {
        const uint8_t* key = cache.view.Key(slots[i] / 32, 1, h);
        const uint8_t* value = cache.view.Value(slots[i] / 32, 1, h);
        for (int32_t d = 0; d < 48; ++d) {
          const int64_t at = i * 144 + h * 48 + d;
          const float tolerance = dtype == DType::kF32 ? 0.0f : 4.9e-4f;  // half a unit of f16
          EXPECT_NEAR(Read(key, dtype, d * 32 + slots[i] % 32),
                      k[at],
                      tolerance * std::fabs(k[at]) + 3e-8f * (dtype == DType::kF16));
          EXPECT_NEAR(Read(value, dtype, slots[i] % 32 * 48 + d),
                      v[at],
                      tolerance * std::fabs(v[at]) + 3e-8f * (dtype == DType::kF16));
        }
      }
    }
  }
}

TEST_P(WriteKvTest, Int8HoldsEveryHeadWithItsScale) {
  TestCache cache(DType::kI8);
  const std::vector<float> k = RandomFloats(40 * 144, 1), v = RandomFloats(40 * 144, 2);
  std::vector<int32_t> slots;
  for (int32_t i = 0; i < 40; ++i) slots.push_back((i * 37 + 5) % 128);  // all differ
  ASSERT_TRUE(
      WriteKv(pool_, Matrix(k.data(), 40, 144), Matrix(v.data(), 40, 144), slots, 1, cache.view)
          .ok());
  for (int32_t i = 0; i < 40; ++i) {
    const int32_t token = slots[i] % 32;
    for (int32_t h = 0; h < 3; ++h) {
      const uint8_t* key = cache.view.Key(slots[i] / 32, 1, h);
      const uint8_t* value = cache.view.Value(slots[i] / 32, 1, h);
      const float* head_k = k.data() + i * 144 + h * 48;
      const float* head_v = v.data() + i * 144 + h * 48;
      const float k_scale = Read(key + 32 * 48, DType::kF32, token);
      const float v_scale = Read(value + 32 * 48, DType::kF32, token);
      const auto largest = [](const float* x) {
        float most = 0;
        for (int32_t d = 0; d < 48; ++d) most = std::max(most, std::fabs(x[d]));
        return most;
      };
      EXPECT_FLOAT_EQ(k_scale, largest(head_k) / 127);
      EXPECT_FLOAT_EQ(v_scale, largest(head_v) / 127);
      for (int32_t d = 0; d < 48; ++d) {
        const auto stored_k = static_cast<int8_t>(key[d / 2 * 64 + 2 * token + d % 2]);
        const auto stored_v = static_cast<int8_t>(value[token / 2 * 96 + 2 * d + token % 2]);
        EXPECT_NEAR(stored_k * k_scale, head_k[d], 0.5001F * k_scale);
        EXPECT_NEAR(stored_v * v_scale, head_v[d], 0.5001F * v_scale);
      }
    }
  }
}

TEST_P(WriteKvTest, Int8KeepsWhatIsNotFiniteAndWhatIsZero) {
  TestCache cache(DType::kI8);
  std::vector<float> x(144, 0.0F);
  x[60] = NAN;        // in head 1
  x[100] = INFINITY;  // in head 2
  const std::vector<int32_t> slot = {7};
  ASSERT_TRUE(
      WriteKv(pool_, Matrix(x.data(), 1, 144), Matrix(x.data(), 1, 144), slot, 0, cache.view).ok());
  for (int32_t h = 0; h < 3; ++h) {
    for (const uint8_t* head : {cache.view.Key(0, 0, h), cache.view.Value(0, 0, h)}) {
      const float scale = Read(head + 32 * 48, DType::kF32, 7);
      EXPECT_EQ(std::isnan(scale), h > 0);
      EXPECT_EQ(scale == 0.0F, h == 0);
    }
  }
}

TEST_P(WriteKvTest, TouchesNothingElse) {
  TestCache cache(DType::kF16);
  const std::vector<float> ones(144, 1.0f);
  const std::vector<int32_t> slot = {70};
  ASSERT_TRUE(
      WriteKv(pool_, Matrix(ones.data(), 1, 144), Matrix(ones.data(), 1, 144), slot, 0, cache.view)
          .ok());
  int64_t written = 0;
  for (size_t i = 0; i < cache.memory.size(); i += 2) written += cache.memory.data()[i + 1] != 0;
  EXPECT_EQ(written, 2 * 144);
}

TEST_P(WriteKvTest, WrongInputsAreInvalid) {
  TestCache cache(DType::kF16);
  const std::vector<float> x(2 * 144);
  const Matrix rows(x.data(), 2, 144);
  const auto write =
      [&](const Matrix& k, const Matrix& v, absl::Span<const int32_t> slots, int32_t layer) {
        return WriteKv(pool_, k, v, slots, layer, cache.view).code();
      };
  EXPECT_EQ(write(rows, rows, {0, 127}, 0), absl::StatusCode::kOk);
  EXPECT_EQ(write(rows, rows, {0, 128}, 0), kInvalid);
  EXPECT_EQ(write(rows, rows, {0, -1}, 0), kInvalid);
  EXPECT_EQ(write(rows, rows, {0}, 0), kInvalid);
  EXPECT_EQ(write(rows, rows, {0, 1}, 2), kInvalid);
  EXPECT_EQ(write(rows.Columns(0, 143), rows, {0, 1}, 0), kInvalid);
  EXPECT_EQ(write(rows, rows.Rows(0, 1), {0, 1}, 0), kInvalid);
}

INSTANTIATE_TEST_SUITE_P(Isas, WriteKvTest, AllIsas(), IsaTestName);

TEST(KvLayoutTest, CountsBytes) {
  const KvLayout layout{30, 3, 64, DType::kF16};
  EXPECT_EQ(layout.BytesPerBlock(), 30 * 3 * 2 * 64 * 2 * 32);
  EXPECT_EQ(layout.BytesPerToken(), 23040);
  const KvLayout int8{30, 3, 64, DType::kI8};
  EXPECT_EQ(int8.BytesPerToken(), 30 * 3 * 2 * (64 + 4));
}

TEST(KvLayoutTest, ImpossibleLayoutsAreInvalid) {
  EXPECT_TRUE(CheckLayout({1, 1, 16, DType::kF16}).ok());
  EXPECT_EQ(CheckLayout({0, 1, 16, DType::kF16}).code(), kInvalid);
  EXPECT_EQ(CheckLayout({1, 1, 24, DType::kF16}).code(), kInvalid);
  EXPECT_EQ(CheckLayout({1, 1, 1024, DType::kF16}).code(), kInvalid);
  EXPECT_EQ(CheckLayout({1, 1, 16, DType::kI32}).code(), kInvalid);
}

TEST(CopyBlocksTest, CopiesWholeBlocksInOrder) {
  ThreadPool pool(2, false);
  TestCache cache(DType::kF16);
  const int64_t bytes = cache.view.layout.BytesPerBlock();
  for (int32_t b = 0; b < 4; ++b) std::memset(cache.memory.data() + b * bytes, b + 1, bytes);
  const BlockCopy copies[] = {{0, 2}, {2, 3}};  // the second copies what the first wrote
  ASSERT_TRUE(CopyBlocks(pool, cache.view, copies).ok());
  const int expected[] = {1, 2, 1, 1};
  for (int64_t i = 0; i < 4 * bytes; ++i) ASSERT_EQ(cache.memory.data()[i], expected[i / bytes]);
}

TEST(CopyBlocksTest, BlocksOutsideAreInvalidAndNothingIsCopied) {
  ThreadPool pool(1, false);
  TestCache cache(DType::kF16);
  cache.memory.data()[0] = 1;
  const BlockCopy copies[] = {{0, 1}, {0, 4}};
  EXPECT_EQ(CopyBlocks(pool, cache.view, copies).code(), kInvalid);
  EXPECT_EQ(cache.memory.data()[cache.view.layout.BytesPerBlock()], 0);
}

}  // namespace
}  // namespace paceline::kernels
