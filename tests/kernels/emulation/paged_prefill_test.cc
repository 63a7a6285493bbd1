// Prefill attention for CUDA, in emulation: beside textbook attention in double precision, and bit
// for bit beside decoding every row alone.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention/paged_decode_device.h"
#include "kernels/attention/paged_prefill_device.h"
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
  int32_t page_size = 32;

  int32_t heads() const { return kv_heads * group; }
  int64_t width() const { return int64_t{heads()} * head_dim; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(head_dim)); }
};

std::vector<float> Rounded(std::vector<float> x) {
  for (float& value : x) value = HalfToFloat(FloatToHalf(value));
  return x;
}
std::vector<uint16_t> Bits(const std::vector<float>& x) {
  std::vector<uint16_t> bits;
  for (const float value : x) bits.push_back(FloatToHalf(value));
  return bits;
}

// A sequence of `length` positions in pages of its own, scrambled.
struct Sequence {
  Sequence(const Shape& shape, int32_t length, uint32_t seed)
      : shape(shape),
        length(length),
        q(Rounded(RandomFloats(length * shape.width(), seed, 2.0f))),
        k(Rounded(RandomFloats(int64_t{length} * shape.kv_heads * shape.head_dim, seed + 1))),
        v(Rounded(RandomFloats(int64_t{length} * shape.kv_heads * shape.head_dim, seed + 2))),
        table((length + shape.page_size - 1) / shape.page_size),
        kv(static_cast<int64_t>(table.size()) * shape.kv_heads * 2 * shape.page_size *
           shape.head_dim) {
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), std::mt19937(seed));
    for (int32_t t = 0; t < length; ++t) {
      for (int32_t h = 0; h < shape.kv_heads; ++h) {
        const int64_t head = int64_t{table[t / shape.page_size]} * shape.kv_heads + h;
        for (int32_t d = 0; d < shape.head_dim; ++d) {
          const int64_t from = (int64_t{t} * shape.kv_heads + h) * shape.head_dim + d;
          const int64_t token = t % shape.page_size;
          const int64_t page = shape.page_size;
          kv[(head * 2 * page + token) * shape.head_dim + d] = FloatToHalf(k[from]);
          kv[((head * 2 + 1) * page + token) * shape.head_dim + d] = FloatToHalf(v[from]);
        }
      }
    }
  }

  // Output bits of rows [begin, end), prefilled in one call.
  std::vector<uint16_t> Prefill(int32_t begin, int32_t end) {
    const std::vector<PrefillSequence> rows = {{0, end - begin, begin}};
    const std::vector<PrefillItem> plan = PlanPagedPrefill(rows, shape.heads(), shape.kv_heads);
    std::vector<uint16_t> rows_of_q;
    for (int32_t row = begin; row < end; ++row) {
      for (const uint16_t bits :
           Bits({q.begin() + row * shape.width(), q.begin() + (row + 1) * shape.width()})) {
        rows_of_q.push_back(bits);
      }
      rows_of_q.insert(rows_of_q.end(), kPadding, 0xffff);
    }
    DeviceArray<uint16_t> queries(rows_of_q);
    DeviceArray<uint16_t> out((end - begin) * shape.width());
    DeviceArray<int32_t> pages(table);
    DeviceArray<PrefillSequence> sequences(rows);
    DeviceArray<PrefillItem> items(plan);
    const absl::Status status = PagedPrefill(nullptr,
                                             {.q = queries.data(),
                                              .q_stride = shape.width() + kPadding,
                                              .kv = kv.data(),
                                              .page_table = pages.data(),
                                              .sequences = sequences.data(),
                                              .items = items.data(),
                                              .out = out.data(),
                                              .num_items = static_cast<int32_t>(plan.size()),
                                              .max_pages = static_cast<int32_t>(table.size()),
                                              .page_size = shape.page_size,
                                              .num_heads = shape.heads(),
                                              .num_kv_heads = shape.kv_heads,
                                              .head_dim = shape.head_dim,
                                              .scale = shape.scale(),
                                              .dtype = DType::kF16});
    EXPECT_TRUE(status.ok()) << status;
    return out.ToVector();
  }

  // Output bits of row `row`, decoded alone.
  std::vector<uint16_t> Decode(int32_t row) {
    const std::vector<int32_t> lengths = {row + 1};
    const DecodePlan plan = PlanPagedDecode(lengths, shape.kv_heads);
    const auto num_items = static_cast<int32_t>(plan.items.size());
    DeviceArray<uint16_t> queries(
        Bits({q.begin() + row * shape.width(), q.begin() + (row + 1) * shape.width()}));
    DeviceArray<uint16_t> out(shape.width());
    DeviceArray<int32_t> pages(table), device_lengths(lengths), first(plan.first_item);
    DeviceArray<DecodeItem> items(plan.items);
    DeviceArray<float> partials(
        DecodePartialFloats(num_items, shape.heads(), shape.kv_heads, shape.head_dim));
    const absl::Status status = PagedDecode(nullptr,
                                            {.q = queries.data(),
                                             .q_stride = shape.width(),
                                             .kv = kv.data(),
                                             .page_table = pages.data(),
                                             .lengths = device_lengths.data(),
                                             .items = items.data(),
                                             .first_item = first.data(),
                                             .partials = partials.data(),
                                             .out = out.data(),
                                             .num_sequences = 1,
                                             .num_items = num_items,
                                             .max_pages = static_cast<int32_t>(table.size()),
                                             .page_size = shape.page_size,
                                             .num_heads = shape.heads(),
                                             .num_kv_heads = shape.kv_heads,
                                             .head_dim = shape.head_dim,
                                             .scale = shape.scale(),
                                             .dtype = DType::kF16});
    EXPECT_TRUE(status.ok()) << status;
    return out.ToVector();
  }

  double Textbook(int32_t row, int32_t h, int32_t dim) const {
    const auto at = [&](const std::vector<float>& x, int32_t t) {
      return x.data() + (int64_t{t} * shape.kv_heads + h / shape.group) * shape.head_dim;
    };
    std::vector<double> weights(row + 1);
    for (int32_t t = 0; t <= row; ++t) {
      for (int32_t d = 0; d < shape.head_dim; ++d) {
        weights[t] +=
            static_cast<double>(q[row * shape.width() + h * shape.head_dim + d]) * at(k, t)[d];
      }
      weights[t] *= shape.scale();
    }
    const double max = *std::max_element(weights.begin(), weights.end());
    double sum = 0;
    double value = 0;
    for (int32_t t = 0; t <= row; ++t) {
      const double w = std::exp(weights[t] - max);
      sum += w;
      value += w * at(v, t)[dim];
    }
    return value / sum;
  }

  Shape shape;
  int32_t length;
  std::vector<float> q, k, v;  // [length, heads or kv_heads, head_dim]
  std::vector<int32_t> table;
  DeviceArray<uint16_t> kv;
};

TEST(PagedPrefillTest, MatchesTextbookAttention) {
  for (const Shape& shape : {Shape{2, 3, 64},
                             Shape{1, 1, 80, 16},
                             Shape{1, 16, 96, 8},
                             Shape{1, 5, 128},
                             Shape{1, 2, 256, 64}}) {
    Sequence sequence(shape, 150, 11);
    const std::vector<uint16_t> out = sequence.Prefill(0, sequence.length);
    for (const int32_t row : {0, 1, 15, 16, 63, 64, 65, 149}) {
      for (int32_t h = 0; h < shape.heads(); ++h) {
        for (const int32_t d : {0, 7, shape.head_dim - 1}) {
          ASSERT_NEAR(HalfToFloat(out[row * shape.width() + h * shape.head_dim + d]),
                      sequence.Textbook(row, h, d),
                      1.5e-3)
              << "head_dim " << shape.head_dim << " row " << row << " head " << h << " at " << d;
        }
      }
    }
  }
}

TEST(PagedPrefillTest, EveryRowGetsTheBitsOfDecodingItAlone) {
  for (const Shape& shape : {Shape{1, 3, 64}, Shape{2, 1, 128, 16}}) {
    Sequence sequence(shape, 330, 23);
    std::vector<uint16_t> alone;
    for (int32_t row = 0; row < sequence.length; row += 13) {
      const std::vector<uint16_t> one = sequence.Decode(row);
      alone.insert(alone.end(), one.begin(), one.end());
    }
    for (const int32_t chunk : {330, 100, 33}) {
      emulation::SetSeed(chunk);
      std::vector<uint16_t> all;
      for (int32_t begin = 0; begin < sequence.length; begin += chunk) {
        const auto part = sequence.Prefill(begin, std::min(begin + chunk, sequence.length));
        all.insert(all.end(), part.begin(), part.end());
      }
      for (int32_t row = 0; row < sequence.length; row += 13) {
        EXPECT_TRUE(std::equal(all.begin() + row * shape.width(),
                               all.begin() + (row + 1) * shape.width(),
                               alone.begin() + row / 13 * shape.width()))
            << "row " << row << " in chunks of " << chunk;
      }
    }
  }
}

TEST(PagedPrefillTest, SizesThatDoNotFitAreInvalid) {
  const PagedPrefillArgs good{.q_stride = 4 * 64,
                              .num_items = 1,
                              .page_size = 32,
                              .num_heads = 4,
                              .num_kv_heads = 2,
                              .head_dim = 64,
                              .dtype = DType::kF16};
  const auto code = [&](auto change) {
    PagedPrefillArgs args = good;
    change(args);
    return PagedPrefill(nullptr, args).code();
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code([](PagedPrefillArgs& a) { a.head_dim = 72; }), kInvalid);
  EXPECT_EQ(code([](PagedPrefillArgs& a) { a.page_size = 24; }), kInvalid);
  EXPECT_EQ(code([](PagedPrefillArgs& a) { a.num_kv_heads = 3; }), kInvalid);
  EXPECT_EQ(code([](PagedPrefillArgs& a) { a.num_items = 0; }), kInvalid);
  EXPECT_EQ(code([](PagedPrefillArgs& a) { a.q_stride = 4 * 64 - 1; }), kInvalid);
  EXPECT_EQ(code([](PagedPrefillArgs& a) { a.dtype = DType::kF32; }), kInvalid);
}

}  // namespace
}  // namespace paceline::kernels
