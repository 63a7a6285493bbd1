// What the tests of the attention kernels for CUDA share: random sequences in a paged cache, calls
// of both kernels in emulation, and textbook attention in double precision. Single-threaded.
#ifndef PACELINE_TESTS_KERNELS_EMULATION_ATTENTION_TEST_UTIL_H_
#define PACELINE_TESTS_KERNELS_EMULATION_ATTENTION_TEST_UTIL_H_

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention/paged_decode_device.h"
#include "kernels/attention/paged_prefill_device.h"
#include "kernels/half.h"
#include "tests/kernels/emulation/device_array.h"
#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {

struct AttentionCase {
  int32_t kv_heads;
  int32_t group;
  int32_t head_dim;
  DType dtype = DType::kF16;
  int32_t page_size = 32;
  DType kv = DType::kF32;  // kF32: dtype
  int32_t window = 0;
  float soft_cap = 0;
  bool alibi = false;

  bool has_scales() const { return kv != DType::kF32; }
  DType kv_dtype() const { return has_scales() ? kv : dtype; }

  int32_t heads() const { return kv_heads * group; }
  int64_t width() const { return int64_t{heads()} * head_dim; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(head_dim)); }
  uint16_t Bits(float x) const {
    return dtype == DType::kF16 ? FloatToHalf(x) : FloatToBfloat16(x);
  }
  float Number(uint16_t bits) const {
    return dtype == DType::kF16 ? HalfToFloat(bits) : Bfloat16ToFloat(bits);
  }
  // A different one for each head, as ALiBi has them.
  std::vector<float> Slopes() const {
    std::vector<float> slopes;
    for (int32_t head = 1; head <= heads(); ++head) {
      slopes.push_back(std::exp2(-8.0f * static_cast<float>(head) / static_cast<float>(heads())));
    }
    return slopes;
  }
  // Weights are rounded to the type before they meet the values, which are seldom above 3, and so
  // is the result.
  double Tolerance(double expected) const {
    const double unit = dtype == DType::kF16 ? 1.0 / 2048 : 1.0 / 256;
    return unit * (3 + std::fabs(expected));
  }
  int64_t head_bytes() const {
    return int64_t{page_size} * (has_scales() ? head_dim + 4 : 2 * head_dim);
  }
};

// One of the kernels that prefill.
struct PrefillKernel {
  absl::Status (*run)(device::Stream, const PagedPrefillArgs&);
  int32_t vectors_per_item;
};
constexpr PrefillKernel kMmaPrefill = {PagedPrefill, kPrefillVectors};
constexpr PrefillKernel kWgmmaPrefill = {PagedPrefillWgmma, kWgmmaPrefillVectors};

// To draw AttentionCase::kv from.
constexpr DType kKvTypes[] = {DType::kF32, DType::kF32, DType::kI8, DType::kE4M3};

inline std::ostream& operator<<(std::ostream& out, const AttentionCase& c) {
  return out << c.kv_heads << " x " << c.group << " heads of " << c.head_dim
             << (c.kv == DType::kI8     ? ", int8"
                 : c.kv == DType::kE4M3 ? ", fp8"
                                        : "")
             << ", window " << c.window << ", cap " << c.soft_cap << (c.alibi ? ", ALiBi" : "");
}

// Queries, keys and values of all positions, as they are once rounded or quantised.
struct Sequence {
  int32_t length;
  std::vector<float> q;     // [length, heads, head_dim]
  std::vector<float> k, v;  // [length, kv_heads, head_dim]
};

// Sequences of these lengths in one cache, in pages that are scrambled and otherwise 0xff: NaN.
class PagedSequences {
 public:
  PagedSequences(const AttentionCase& c, const std::vector<int32_t>& lengths, uint32_t seed)
      : case_(c), kv_(NumPages(lengths) * c.kv_heads * 2 * c.head_bytes()), slopes_(c.Slopes()) {
    std::vector<int32_t> free(NumPages(lengths));
    std::iota(free.begin(), free.end(), 0);
    std::shuffle(free.begin(), free.end(), std::mt19937(seed));
    for (const int32_t length : lengths) max_pages_ = std::max(max_pages_, Pages(length));
    for (const int32_t length : lengths) {
      const int64_t kv_width = int64_t{c.kv_heads} * c.head_dim;
      Sequence& s = sequences_.emplace_back();
      s.length = length;
      s.q = RandomFloats(length * c.width(), ++seed, 2.0f);
      for (float& value : s.q) value = c.Number(c.Bits(value));
      s.k = RandomFloats(length * kv_width, ++seed);
      s.v = RandomFloats(length * kv_width, ++seed);
      for (int32_t p = 0; p < max_pages_; ++p) {
        const bool used = p < Pages(length);
        table_.push_back(used ? free.back() : -1);  // -1 is never looked at
        if (used) free.pop_back();
      }
      for (int32_t t = 0; t < length; ++t) {
        for (int32_t h = 0; h < c.kv_heads; ++h) {
          const int64_t at = (int64_t{t} * c.kv_heads + h) * c.head_dim;
          Store(t, 2 * h, &s.k[at]);
          Store(t, 2 * h + 1, &s.v[at]);
        }
      }
    }
  }

  const Sequence& sequence(int i) const { return sequences_[i]; }

  // Output bits of the rows at position lengths[i] - 1 of sequences which[i], from one call, whose
  // lists are filled up with `padding` rows and items that are nothing.
  std::vector<uint16_t> Decode(const std::vector<int32_t>& which,
                               std::vector<int32_t> lengths,
                               int32_t padding = 0) {
    constexpr int64_t kPadding = 24;  // elements between rows of q
    const AttentionCase& c = case_;
    std::vector<uint16_t> q;
    std::vector<int32_t> table;
    for (size_t i = 0; i < which.size(); ++i) {
      const auto first = sequences_[which[i]].q.begin() + (lengths[i] - 1) * c.width();
      for (auto it = first; it != first + c.width(); ++it) q.push_back(c.Bits(*it));
      q.insert(q.end(), kPadding, 0xffff);
      const auto pages = table_.begin() + which[i] * max_pages_;
      table.insert(table.end(), pages, pages + max_pages_);
    }
    DecodePlan plan = PlanPagedDecode(lengths, c.kv_heads, c.window);
    for (int32_t i = 0; i < padding; ++i) {
      plan.items.push_back({-1, -1, -1});
      plan.first_item.push_back(-1);
      lengths.push_back(0);
    }
    const auto num_items = static_cast<int32_t>(plan.items.size());
    DeviceArray<uint16_t> device_q(q), out(static_cast<int64_t>(lengths.size()) * c.width());
    DeviceArray<int32_t> device_table(table), device_lengths(lengths), first(plan.first_item);
    DeviceArray<DecodeItem> items(plan.items);
    DeviceArray<float> partials(DecodePartialFloats(num_items, c.heads(), c.kv_heads, c.head_dim));
    const absl::Status status = PagedDecode(nullptr,
                                            {.q = device_q.data(),
                                             .q_stride = c.width() + kPadding,
                                             .kv = kv_.data(),
                                             .page_table = device_table.data(),
                                             .lengths = device_lengths.data(),
                                             .items = items.data(),
                                             .first_item = first.data(),
                                             .partials = partials.data(),
                                             .out = out.data(),
                                             .num_sequences = static_cast<int32_t>(lengths.size()),
                                             .num_items = num_items,
                                             .max_pages = max_pages_,
                                             .page_size = c.page_size,
                                             .num_heads = c.heads(),
                                             .num_kv_heads = c.kv_heads,
                                             .head_dim = c.head_dim,
                                             .scale = c.scale(),
                                             .dtype = c.dtype,
                                             .kv_dtype = c.kv_dtype(),
                                             .window = c.window,
                                             .soft_cap = c.soft_cap,
                                             .slopes = c.alibi ? slopes_.data() : nullptr});
    EXPECT_TRUE(status.ok()) << status;
    return out.ToVector();
  }

  // Output bits of rows [begin, end) of sequence `i`, prefilled in one call of `kernel`.
  std::vector<uint16_t> Prefill(int i,
                                int32_t begin,
                                int32_t end,
                                const PrefillKernel& kernel = kMmaPrefill) {
    constexpr int64_t kPadding = 8;
    const AttentionCase& c = case_;
    std::vector<uint16_t> q;
    for (int32_t row = begin; row < end; ++row) {
      const auto first = sequences_[i].q.begin() + row * c.width();
      for (auto it = first; it != first + c.width(); ++it) q.push_back(c.Bits(*it));
      q.insert(q.end(), kPadding, 0xffff);
    }
    const std::vector<PrefillSequence> rows = {{0, end - begin, begin}};
    const std::vector<PrefillItem> plan =
        PlanPagedPrefill(rows, c.heads(), c.kv_heads, kernel.vectors_per_item);
    DeviceArray<uint16_t> device_q(q), out((end - begin) * c.width());
    DeviceArray<int32_t> pages(std::vector<int32_t>(table_.begin() + i * max_pages_,
                                                    table_.begin() + (i + 1) * max_pages_));
    DeviceArray<PrefillSequence> device_rows(rows);
    DeviceArray<PrefillItem> items(plan);
    const absl::Status status = kernel.run(nullptr,
                                           {.q = device_q.data(),
                                            .q_stride = c.width() + kPadding,
                                            .kv = kv_.data(),
                                            .page_table = pages.data(),
                                            .sequences = device_rows.data(),
                                            .items = items.data(),
                                            .out = out.data(),
                                            .num_items = static_cast<int32_t>(plan.size()),
                                            .max_pages = max_pages_,
                                            .page_size = c.page_size,
                                            .num_heads = c.heads(),
                                            .num_kv_heads = c.kv_heads,
                                            .head_dim = c.head_dim,
                                            .scale = c.scale(),
                                            .dtype = c.dtype,
                                            .kv_dtype = c.kv_dtype(),
                                            .window = c.window,
                                            .soft_cap = c.soft_cap,
                                            .slopes = c.alibi ? slopes_.data() : nullptr});
    EXPECT_TRUE(status.ok()) << status;
    return out.ToVector();
  }

  // What query head `head` of row `row` gets: [head_dim].
  std::vector<double> Textbook(int i, int32_t row, int32_t head) const {
    const AttentionCase& c = case_;
    const Sequence& s = sequences_[i];
    const float* const q = s.q.data() + row * c.width() + head * c.head_dim;
    const auto at = [&](const std::vector<float>& x, int32_t t) {
      return x.data() + (int64_t{t} * c.kv_heads + head / c.group) * c.head_dim;
    };
    const int32_t first = c.window > 0 ? std::max(0, row + 1 - c.window) : 0;
    const double slope = c.alibi ? c.Slopes()[head] : 0;
    std::vector<double> weights;
    for (int32_t t = first; t <= row; ++t) {
      double score = 0;
      for (int32_t d = 0; d < c.head_dim; ++d) score += static_cast<double>(q[d]) * at(s.k, t)[d];
      score *= c.scale();
      if (c.soft_cap > 0) score = c.soft_cap * std::tanh(score / c.soft_cap);
      score -= slope * (row - t);
      weights.push_back(score);
    }
    const double max = *std::max_element(weights.begin(), weights.end());
    double sum = 0;
    for (double& w : weights) sum += w = std::exp(w - max);
    std::vector<double> out(c.head_dim);
    for (int32_t d = 0; d < c.head_dim; ++d) {
      for (int32_t t = first; t <= row; ++t) out[d] += weights[t - first] / sum * at(s.v, t)[d];
    }
    return out;
  }

  // Compares row `row`'s output bits [heads, head_dim].
  void ExpectTextbook(int i, int32_t row, const uint16_t* bits) const {
    for (int32_t h = 0; h < case_.heads(); ++h) {
      const std::vector<double> expected = Textbook(i, row, h);
      for (int32_t d = 0; d < case_.head_dim; ++d) {
        ASSERT_NEAR(
            case_.Number(bits[h * case_.head_dim + d]), expected[d], case_.Tolerance(expected[d]))
            << case_ << ": row " << row << " head " << h << " at " << d;
      }
    }
  }

 private:
  int32_t Pages(int32_t length) const { return (length + case_.page_size - 1) / case_.page_size; }
  int64_t NumPages(const std::vector<int32_t>& lengths) const {
    int64_t pages = 1;
    for (const int32_t length : lengths) pages += Pages(length);
    return pages;
  }

  // Puts a head's numbers in the cache of the last sequence and makes them what they are there;
  // part 2 h is the key of KV head h, 2 h + 1 its value.
  void Store(int32_t position, int32_t part, float* x) {
    const AttentionCase& c = case_;
    const int32_t page = table_[(sequences_.size() - 1) * max_pages_ + position / c.page_size];
    uint8_t* const head = kv_.data() + (int64_t{page} * c.kv_heads * 2 + part) * c.head_bytes();
    const int32_t token = position % c.page_size;
    if (c.has_scales()) {
      float largest = 0;
      for (int32_t d = 0; d < c.head_dim; ++d) largest = std::max(largest, std::fabs(x[d]));
      const bool int8 = c.kv == DType::kI8;
      const float scale = largest / (int8 ? 127 : 448);
      for (int32_t d = 0; d < c.head_dim; ++d) {
        uint8_t& code = head[token * c.head_dim + d];
        code = int8 ? static_cast<uint8_t>(std::lround(x[d] / scale)) : NearestE4M3(x[d] / scale);
        x[d] = static_cast<float>(int8 ? static_cast<int8_t>(code) : E4M3Value(code)) * scale;
      }
      std::memcpy(head + c.page_size * c.head_dim + token * sizeof(scale), &scale, sizeof(scale));
      return;
    }
    for (int32_t d = 0; d < c.head_dim; ++d) {
      const uint16_t bits = c.Bits(x[d]);
      std::memcpy(head + (token * c.head_dim + d) * sizeof(bits), &bits, sizeof(bits));
      x[d] = c.Number(bits);
    }
  }

  const AttentionCase case_;
  std::vector<Sequence> sequences_;
  std::vector<int32_t> table_;  // [sequences, max_pages]
  int32_t max_pages_ = 0;
  DeviceArray<uint8_t> kv_;
  DeviceArray<float> slopes_;  // [heads]
};

}  // namespace paceline::kernels

#endif  // PACELINE_TESTS_KERNELS_EMULATION_ATTENTION_TEST_UTIL_H_
