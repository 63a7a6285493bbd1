// Decode attention for CUDA, in emulation, beside textbook attention in double precision.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention/paged_decode_device.h"
#include "kernels/emulation/grid.h"
#include "kernels/half.h"
#include "tests/kernels/emulation/device_array.h"
#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {
namespace {

constexpr int64_t kPadding = 24;  // elements between rows of q

struct Shape {
  int32_t kv_heads;
  int32_t group;
  int32_t head_dim;
  DType dtype;
  int32_t page_size = 32;

  int32_t heads() const { return kv_heads * group; }
  int64_t width() const { return int64_t{heads()} * head_dim; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(head_dim)); }
  uint16_t Bits(float x) const {
    return dtype == DType::kF16 ? FloatToHalf(x) : FloatToBfloat16(x);
  }
  float Number(uint16_t bits) const {
    return dtype == DType::kF16 ? HalfToFloat(bits) : Bfloat16ToFloat(bits);
  }
};

// One sequence: its query, and keys and values of all positions, rounded to the type.
struct Sequence {
  std::vector<float> q;     // [heads, head_dim]
  std::vector<float> k, v;  // [length, kv_heads, head_dim]
  int32_t length;
};

Sequence RandomSequence(const Shape& shape, int32_t length, uint32_t seed) {
  const auto rounded = [&](std::vector<float> x) {
    for (float& value : x) value = shape.Number(shape.Bits(value));
    return x;
  };
  const int64_t row = int64_t{shape.kv_heads} * shape.head_dim;
  return {rounded(RandomFloats(int64_t{shape.heads()} * shape.head_dim, seed, 2.0f)),
          rounded(RandomFloats(length * row, seed + 1)),
          rounded(RandomFloats(length * row, seed + 2)),
          length};
}

std::vector<double> Textbook(const Shape& shape, const Sequence& s) {
  std::vector<double> out;
  for (int32_t h = 0; h < shape.heads(); ++h) {
    const auto at = [&](const std::vector<float>& x, int32_t position) {
      return x.data() + (int64_t{position} * shape.kv_heads + h / shape.group) * shape.head_dim;
    };
    std::vector<double> weights(s.length);
    for (int32_t t = 0; t < s.length; ++t) {
      for (int32_t d = 0; d < shape.head_dim; ++d) {
        weights[t] += static_cast<double>(s.q[h * shape.head_dim + d]) * at(s.k, t)[d];
      }
      weights[t] *= shape.scale();
    }
    const double max = *std::max_element(weights.begin(), weights.end());
    double sum = 0;
    for (double& w : weights) sum += w = std::exp(w - max);
    for (int32_t d = 0; d < shape.head_dim; ++d) {
      double value = 0;
      for (int32_t t = 0; t < s.length; ++t) value += weights[t] / sum * at(s.v, t)[d];
      out.push_back(value);
    }
  }
  return out;
}

// The bits of every sequence's output, from one call over a cache whose pages are scrambled and
// otherwise NaN.
std::vector<uint16_t> Attend(const Shape& shape, const std::vector<Sequence>& sequences) {
  std::vector<int32_t> lengths;
  int32_t num_pages = 1;
  int32_t max_pages = 0;
  for (const Sequence& s : sequences) {
    lengths.push_back(s.length);
    const int32_t pages = (s.length + shape.page_size - 1) / shape.page_size;
    num_pages += pages;
    max_pages = std::max(max_pages, pages);
  }
  std::vector<int32_t> order(num_pages);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(7));
  const int64_t head_elements = int64_t{shape.page_size} * shape.head_dim;
  DeviceArray<uint16_t> kv(num_pages * shape.kv_heads * 2 * head_elements);
  std::vector<int32_t> table;
  std::vector<uint16_t> q;
  for (const Sequence& s : sequences) {
    for (const float value : s.q) q.push_back(shape.Bits(value));
    q.insert(q.end(), kPadding, 0xffff);
    std::vector<int32_t> pages(max_pages, -1);  // never looked at
    for (int32_t p = 0; p * shape.page_size < s.length; ++p) {
      pages[p] = order.back();
      order.pop_back();
    }
    for (int32_t t = 0; t < s.length; ++t) {
      for (int32_t h = 0; h < shape.kv_heads; ++h) {
        for (int32_t d = 0; d < shape.head_dim; ++d) {
          const int64_t from = (int64_t{t} * shape.kv_heads + h) * shape.head_dim + d;
          const int64_t head =
              (int64_t{pages[t / shape.page_size]} * shape.kv_heads + h) * 2 * head_elements;
          const int64_t to = head + t % shape.page_size * shape.head_dim + d;
          kv[to] = shape.Bits(s.k[from]);
          kv[to + head_elements] = shape.Bits(s.v[from]);
        }
      }
    }
    table.insert(table.end(), pages.begin(), pages.end());
  }
  const DecodePlan plan = PlanPagedDecode(lengths, shape.kv_heads);
  const auto num_items = static_cast<int32_t>(plan.items.size());
  const auto num_rows = static_cast<int64_t>(sequences.size());
  DeviceArray<uint16_t> device_q(q), out(num_rows * shape.width());
  DeviceArray<int32_t> device_table(table), device_lengths(lengths), first(plan.first_item);
  DeviceArray<DecodeItem> items(plan.items);
  DeviceArray<float> partials(
      DecodePartialFloats(num_items, shape.heads(), shape.kv_heads, shape.head_dim));
  const absl::Status status = PagedDecode(nullptr,
                                          {.q = device_q.data(),
                                           .q_stride = shape.width() + kPadding,
                                           .kv = kv.data(),
                                           .page_table = device_table.data(),
                                           .lengths = device_lengths.data(),
                                           .items = items.data(),
                                           .first_item = first.data(),
                                           .partials = partials.data(),
                                           .out = out.data(),
                                           .num_sequences = static_cast<int32_t>(sequences.size()),
                                           .num_items = num_items,
                                           .max_pages = max_pages,
                                           .page_size = shape.page_size,
                                           .num_heads = shape.heads(),
                                           .num_kv_heads = shape.kv_heads,
                                           .head_dim = shape.head_dim,
                                           .scale = shape.scale(),
                                           .dtype = shape.dtype});
  EXPECT_TRUE(status.ok()) << status;
  return out.ToVector();
}

TEST(PagedDecodeTest, MatchesTextbookAttention) {
  const Shape shapes[] = {{1, 3, 64, DType::kF16},
                          {2, 1, 64, DType::kBF16, 16},
                          {1, 16, 80, DType::kF16, 8},
                          {1, 4, 96, DType::kBF16},
                          {1, 7, 128, DType::kF16},
                          {1, 8, 256, DType::kF16, 64}};
  uint32_t seed = 1;
  for (const Shape& shape : shapes) {
    std::vector<Sequence> sequences;
    for (const int32_t length : {1, 16, 63, 64, 65, 300}) {
      sequences.push_back(RandomSequence(shape, length, seed));
      seed += 3;
    }
    emulation::SetSeed(seed);
    const std::vector<uint16_t> out = Attend(shape, sequences);
    const int64_t width = int64_t{shape.heads()} * shape.head_dim;
    // Weights are rounded to the type before they meet the values, and so is the result.
    const double tolerance = shape.dtype == DType::kF16 ? 1.5e-3 : 1.2e-2;
    for (size_t s = 0; s < sequences.size(); ++s) {
      const std::vector<double> expected = Textbook(shape, sequences[s]);
      for (int64_t i = 0; i < width; ++i) {
        ASSERT_NEAR(shape.Number(out[s * width + i]), expected[i], tolerance)
            << "head_dim " << shape.head_dim << " length " << sequences[s].length << " at " << i;
      }
    }
  }
}

TEST(PagedDecodeTest, LongContextsMatch) {
  const Shape shape{1, 3, 64, DType::kF16};
  const Sequence sequence = RandomSequence(shape, 5000, 50);
  const std::vector<uint16_t> out = Attend(shape, {sequence});
  const std::vector<double> expected = Textbook(shape, sequence);
  for (size_t i = 0; i < out.size(); ++i) {
    ASSERT_NEAR(shape.Number(out[i]), expected[i], 1e-3) << i;
  }
}

TEST(PagedDecodeTest, TheBatchNeverChangesASequencesBits) {
  const Shape shape{2, 3, 64, DType::kBF16};
  std::vector<Sequence> sequences;
  for (const int32_t length : {256, 1, 257, 40, 513}) {
    sequences.push_back(RandomSequence(shape, length, 100 + length));
  }
  const std::vector<uint16_t> together = Attend(shape, sequences);
  const int64_t width = int64_t{shape.heads()} * shape.head_dim;
  for (size_t s = 0; s < sequences.size(); ++s) {
    emulation::SetSeed(s + 77);
    const std::vector<uint16_t> alone = Attend(shape, {sequences[s]});
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + s * width)) << s;
  }
}

TEST(PagedDecodeTest, SizesThatDoNotFitAreInvalid) {
  const PagedDecodeArgs good{.q_stride = 4 * 64,
                             .num_sequences = 1,
                             .num_items = 1,
                             .max_pages = 1,
                             .page_size = 32,
                             .num_heads = 4,
                             .num_kv_heads = 2,
                             .head_dim = 64,
                             .dtype = DType::kF16};
  const auto code = [&](auto change) {
    PagedDecodeArgs args = good;
    change(args);
    return PagedDecode(nullptr, args).code();
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code([](PagedDecodeArgs& a) { a.head_dim = 72; }), kInvalid);
  EXPECT_EQ(code([](PagedDecodeArgs& a) { a.page_size = 24; }), kInvalid);
  EXPECT_EQ(code([](PagedDecodeArgs& a) { a.num_kv_heads = 3; }), kInvalid);
  EXPECT_EQ(code([](PagedDecodeArgs& a) { a.num_heads = 34; }), kInvalid);
  EXPECT_EQ(code([](PagedDecodeArgs& a) { a.num_items = 0; }), kInvalid);
  EXPECT_EQ(code([](PagedDecodeArgs& a) { a.q_stride = 4 * 64 - 1; }), kInvalid);
  EXPECT_EQ(code([](PagedDecodeArgs& a) { a.dtype = DType::kF32; }), kInvalid);
}

}  // namespace
}  // namespace paceline::kernels
