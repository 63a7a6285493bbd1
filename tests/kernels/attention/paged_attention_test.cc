#include "kernels/attention/paged_attention.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "gmock/gmock.h"
#include "kernels/kv_cache/write_kv.h"
#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {
namespace {

struct Shape {
  int32_t kv_heads;
  int32_t group;
  int32_t head_dim;
  DType dtype;

  int64_t q_cols() const { return int64_t{kv_heads} * group * head_dim; }
  int64_t kv_cols() const { return int64_t{kv_heads} * head_dim; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(head_dim)); }
};

// One sequence's q, k and v for every position.
struct Tokens {
  int32_t count;
  std::vector<float> q, k, v;
};

Tokens RandomTokens(const Shape& shape, int32_t count, uint32_t seed) {
  return {count,
          RandomFloats(count * shape.q_cols(), seed, 2.0f),
          RandomFloats(count * shape.kv_cols(), seed + 1, 1.0f),
          RandomFloats(count * shape.kv_cols(), seed + 2, 1.0f)};
}

constexpr int32_t kLayers = 2;
constexpr int32_t kLayer = 1;

// A cache full of NaN, handed out block by block in a scrambled order.
class Cache {
 public:
  Cache(const Shape& shape, int32_t num_blocks)
      : layout_{kLayers, shape.kv_heads, shape.head_dim, shape.dtype},
        num_blocks_(num_blocks),
        memory_(*AlignedBuffer::Allocate(num_blocks * layout_.BytesPerBlock())),
        free_(num_blocks) {
    std::memset(memory_.data(), 0xff, memory_.size());
    std::iota(free_.begin(), free_.end(), 0);
    std::shuffle(free_.begin(), free_.end(), std::mt19937(99));
  }
  KvCacheView view() const { return {memory_.data(), num_blocks_, layout_}; }

  // Blocks for `tokens` positions, with their first `filled` keys and values written.
  std::vector<int32_t> Add(ThreadPool& pool, const Tokens& tokens, int32_t filled) {
    std::vector<int32_t> table;
    for (int32_t i = 0; i < (tokens.count + 31) / 32; ++i) {
      table.push_back(free_.back());
      free_.pop_back();
    }
    Write(pool, tokens, table, 0, filled);
    return table;
  }

  void Write(ThreadPool& pool,
             const Tokens& tokens,
             const std::vector<int32_t>& table,
             int32_t begin,
             int32_t end) {
    std::vector<int32_t> slots;
    for (int32_t i = begin; i < end; ++i) slots.push_back(table[i / 32] * 32 + i % 32);
    const int64_t cols = int64_t{layout_.num_kv_heads} * layout_.head_dim;
    const Matrix k(tokens.k.data() + begin * cols, end - begin, cols);
    const Matrix v(tokens.v.data() + begin * cols, end - begin, cols);
    const auto status = WriteKv(pool, k, v, slots, kLayer, view());
    EXPECT_TRUE(status.ok()) << status;
  }

 private:
  KvLayout layout_;
  int32_t num_blocks_;
  AlignedBuffer memory_;
  std::vector<int32_t> free_;
};

double Round(float value, DType dtype) {
  if (dtype == DType::kF32) return value;
  // To the nearest half, by arithmetic; the tests' values are normal halves.
  const double step = std::ldexp(1.0, std::max(-24, std::ilogb(value) - 10));
  return value == 0 ? 0 : std::nearbyint(value / step) * step;
}

// What the cache keeps of `x`, heads of head_dim after one another.
std::vector<double> Stored(const std::vector<float>& x, const Shape& s) {
  std::vector<double> stored;
  for (size_t head = 0; head < x.size(); head += s.head_dim) {
    float largest = 0;
    for (int32_t d = 0; d < s.head_dim; ++d) largest = std::max(largest, std::fabs(x[head + d]));
    const double scale = largest / 127.0F;
    for (int32_t d = 0; d < s.head_dim; ++d) {
      const float value = x[head + d];
      stored.push_back(s.dtype == DType::kI8 ? scale * std::nearbyint(value / scale)
                                             : Round(value, s.dtype));
    }
  }
  return stored;
}

// Textbook attention of the row at `position`, in double.
std::vector<double> Oracle(const Shape& s, const Tokens& t, int32_t position) {
  const std::vector<double> k = Stored(t.k, s);
  const std::vector<double> v = Stored(t.v, s);
  std::vector<double> out;
  for (int32_t h = 0; h < s.kv_heads * s.group; ++h) {
    const float* q = t.q.data() + position * s.q_cols() + h * s.head_dim;
    const int64_t kv = h / s.group * s.head_dim;
    std::vector<double> weights(position + 1);
    for (int32_t i = 0; i <= position; ++i) {
      for (int32_t d = 0; d < s.head_dim; ++d) {
        weights[i] += q[d] * k[i * s.kv_cols() + kv + d];
      }
      weights[i] *= s.scale();
    }
    const double max = *std::max_element(weights.begin(), weights.end());
    double sum = 0;
    for (double& w : weights) sum += w = std::exp(w - max);
    for (int32_t d = 0; d < s.head_dim; ++d) {
      double value = 0;
      for (int32_t i = 0; i <= position; ++i) {
        value += weights[i] / sum * v[i * s.kv_cols() + kv + d];
      }
      out.push_back(value);
    }
  }
  return out;
}

std::vector<float> Attend(ThreadPool& pool,
                          const Shape& shape,
                          const Cache& cache,
                          const std::vector<float>& q,
                          const std::vector<SequenceView>& sequences) {
  AttentionWorkspace workspace;
  const auto rows = static_cast<int64_t>(q.size()) / shape.q_cols();
  std::vector<float> out(q.size(), NAN);
  const auto status = PagedAttention(pool,
                                     Matrix(q.data(), rows, shape.q_cols()),
                                     cache.view(),
                                     kLayer,
                                     sequences,
                                     shape.scale(),
                                     workspace,
                                     MutableMatrix(out.data(), rows, shape.q_cols()));
  EXPECT_TRUE(status.ok()) << status;
  return out;
}

std::vector<float> QueryRows(const Shape& shape, const Tokens& t, int32_t begin, int32_t end) {
  return {t.q.begin() + begin * shape.q_cols(), t.q.begin() + end * shape.q_cols()};
}

// Every position of `tokens`, each decoded alone by one thread: what all else is compared with.
std::vector<float> OneByOne(const Shape& shape, const Tokens& tokens) {
  ThreadPool pool(1, false);
  Cache cache(shape, (tokens.count + 31) / 32);
  const auto table = cache.Add(pool, tokens, 0);
  std::vector<float> all;
  for (int32_t i = 0; i < tokens.count; ++i) {
    cache.Write(pool, tokens, table, i, i + 1);
    const auto row =
        Attend(pool, shape, cache, QueryRows(shape, tokens, i, i + 1), {{0, 1, i, table}});
    all.insert(all.end(), row.begin(), row.end());
  }
  return all;
}

constexpr Shape kSmol{3, 3, 64, DType::kF16};
constexpr Shape kSmolInt8{3, 3, 64, DType::kI8};

class PagedAttentionTest : public IsaTest {
 protected:
  ThreadPool pool_{2, false};
};

TEST_P(PagedAttentionTest, MatchesTextbookAttention) {
  const Shape shapes[] = {kSmol,
                          {3, 3, 64, DType::kF32},
                          {1, 1, 16, DType::kF16},
                          {2, 4, 80, DType::kF16},
                          {1, 8, 128, DType::kF32},
                          {1, 9, 96, DType::kF16},
                          {3, 3, 64, DType::kI8},
                          {1, 5, 80, DType::kI8},
                          {2, 1, 128, DType::kI8}};
  for (const Shape& shape : shapes) {
    const Tokens tokens = RandomTokens(shape, 300, 1);
    Cache cache(shape, 16);
    const auto table = cache.Add(pool_, tokens, tokens.count);
    const auto out = Attend(pool_, shape, cache, tokens.q, {{0, tokens.count, 0, table}});
    for (int32_t position : {0, 1, 31, 32, 100, 255, 256, 257, 299}) {
      const auto expected = Oracle(shape, tokens, position);
      for (size_t i = 0; i < expected.size(); ++i) {
        // With int8, queries and weights are rounded to 16 bits of their largest; rarely a tie of
        // the stored values goes the other way.
        const double tolerance = shape.dtype == DType::kI8 ? 3e-4 : 5e-6;
        ASSERT_NEAR(out[position * shape.q_cols() + i], expected[i], tolerance)
            << "head_dim " << shape.head_dim << " position " << position << " element " << i;
      }
    }
  }
}

TEST_P(PagedAttentionTest, AnyPrefillSplitGivesTheBitsOfDecodingOneByOne) {
  for (const Shape& shape : {kSmol,
                             Shape{2, 1, 32, DType::kF32},
                             Shape{1, 5, 48, DType::kF16},
                             kSmolInt8,
                             Shape{1, 5, 48, DType::kI8}}) {
    const Tokens tokens = RandomTokens(shape, 300, 2);
    const auto expected = OneByOne(shape, tokens);
    for (int32_t chunk : {300, 256, 100, 33, 7}) {
      Cache cache(shape, 20);
      const auto table = cache.Add(pool_, tokens, 0);
      for (int32_t begin = 0; begin < tokens.count; begin += chunk) {
        const int32_t end = std::min(tokens.count, begin + chunk);
        cache.Write(pool_, tokens, table, begin, end);
        const auto out = Attend(pool_,
                                shape,
                                cache,
                                QueryRows(shape, tokens, begin, end),
                                {{0, end - begin, begin, table}});
        ASSERT_TRUE(SameBits(
            out.data(), expected.data() + begin * shape.q_cols(), static_cast<int64_t>(out.size())))
            << "chunk " << chunk << " from " << begin;
      }
    }
  }
}

TEST_P(PagedAttentionTest, BatchMatesAndThreadsNeverChangeBits) {
  const Shape& shape = kSmol;
  std::vector<Tokens> sequences;
  std::vector<std::vector<float>> expected;
  const int32_t lengths[] = {1, 40, 257, 520, 32, 256};
  for (uint32_t i = 0; i < std::size(lengths); ++i) {
    sequences.push_back(RandomTokens(shape, lengths[i], 100 + 3 * i));
    expected.push_back(OneByOne(shape, sequences.back()));
  }
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads, false);
    Cache cache(shape, 64);
    std::vector<std::vector<int32_t>> tables;
    std::vector<SequenceView> views;
    std::vector<float> q;
    int32_t row = 0;
    for (uint32_t i = 0; i < sequences.size(); ++i) {
      tables.push_back(cache.Add(pool, sequences[i], sequences[i].count));
      // The last one decodes, the others prefill more and more rows.
      const int32_t rows =
          i + 1 == sequences.size() ? 1 : std::min<int32_t>(lengths[i], 1 + 50 * i);
      const auto part = QueryRows(shape, sequences[i], lengths[i] - rows, lengths[i]);
      q.insert(q.end(), part.begin(), part.end());
      views.push_back({row, rows, lengths[i] - rows, {}});
      row += rows;
    }
    for (size_t i = 0; i < views.size(); ++i) views[i].block_table = tables[i];
    const auto out = Attend(pool, shape, cache, q, views);
    for (size_t i = 0; i < views.size(); ++i) {
      EXPECT_TRUE(SameBits(out.data() + views[i].first_row * shape.q_cols(),
                           expected[i].data() + views[i].context_before * shape.q_cols(),
                           views[i].num_rows * shape.q_cols()))
          << threads << " threads, sequence " << i;
    }
  }
}

TEST_P(PagedAttentionTest, ChunksSharedByThreadsMissNoPosition) {
  const Tokens tokens = RandomTokens(kSmol, 514, 5);
  const auto expected = OneByOne(kSmol, tokens);
  ThreadPool pool(3, false);
  Cache cache(kSmol, 17);
  const auto table = cache.Add(pool, tokens, tokens.count);
  for (int32_t context : {255, 256, 257, 511, 512, 513}) {
    const auto row = QueryRows(kSmol, tokens, context, context + 1);
    const auto out = Attend(pool, kSmol, cache, row, {{0, 1, context, table}});
    EXPECT_TRUE(SameBits(out.data(), expected.data() + context * kSmol.q_cols(), kSmol.q_cols()))
        << context;
  }
}

TEST_P(PagedAttentionTest, InfinityInALaterPositionDoesNotTouchEarlierRows) {
  for (const Shape& shape : {kSmol, kSmolInt8}) {
    Tokens tokens = RandomTokens(shape, 70, 3);
    const auto expected = OneByOne(shape, tokens);
    for (int64_t i = 0; i < shape.kv_cols(); ++i) {
      tokens.k[50 * shape.kv_cols() + i] = INFINITY;
      tokens.v[50 * shape.kv_cols() + i] = INFINITY;
    }
    Cache cache(shape, 4);
    const auto table = cache.Add(pool_, tokens, tokens.count);
    const auto out = Attend(pool_, shape, cache, tokens.q, {{0, tokens.count, 0, table}});
    EXPECT_TRUE(SameBits(out.data(), expected.data(), 50 * shape.q_cols()));
    for (int64_t i = 50 * shape.q_cols(); i < 70 * shape.q_cols(); ++i) {
      ASSERT_FALSE(std::isfinite(out[i])) << i;
    }
  }
}

TEST_P(PagedAttentionTest, OneInfinityInAnyInputOfInt8ReachesTheRow) {
  const Tokens tokens = RandomTokens(kSmolInt8, 70, 3);
  for (const auto member : {&Tokens::q, &Tokens::k, &Tokens::v}) {
    Tokens broken = tokens;
    (broken.*member)[69 * (member == &Tokens::q ? kSmolInt8.q_cols() : kSmolInt8.kv_cols())] =
        -INFINITY;
    Cache cache(kSmolInt8, 4);
    const auto table = cache.Add(pool_, broken, broken.count);
    const auto out =
        Attend(pool_, kSmolInt8, cache, QueryRows(kSmolInt8, broken, 69, 70), {{0, 1, 69, table}});
    EXPECT_FALSE(std::isfinite(out[0]));
    EXPECT_TRUE(std::isfinite(out.back())) << "other heads are not touched";
  }
}

TEST_P(PagedAttentionTest, HugeScoresDoNotOverflow) {
  for (const Shape& shape : {kSmol, kSmolInt8, Shape{1, 1, 512, DType::kI8}}) {
    Tokens tokens = RandomTokens(shape, 300, 4);
    for (float& q : tokens.q) q = q < 0 ? -1000 : 1000;
    for (float& k : tokens.k) k = k < 0 ? -1 : 1;
    std::fill_n(tokens.q.data(), shape.head_dim, 1000.0F);  // the largest integers of all
    std::fill_n(tokens.k.data(), shape.head_dim, 1.0F);
    std::fill(tokens.v.begin(), tokens.v.end(), 3.0F);
    Cache cache(shape, 10);
    const auto table = cache.Add(pool_, tokens, tokens.count);
    const auto out = Attend(pool_, shape, cache, tokens.q, {{0, tokens.count, 0, table}});
    for (float value : out) ASSERT_NEAR(value, 3.0F, 1e-3F);
  }
}

TEST_P(PagedAttentionTest, WrongInputsAreInvalid) {
  const Shape& shape = kSmol;
  const Tokens tokens = RandomTokens(shape, 40, 5);
  Cache cache(shape, 4);
  const auto table = cache.Add(pool_, tokens, tokens.count);
  const std::vector<int32_t> outside = {0, 4};
  AttentionWorkspace workspace;
  std::vector<float> out(tokens.q.size());
  const Matrix q(tokens.q.data(), 40, shape.q_cols());
  const MutableMatrix result(out.data(), 40, shape.q_cols());
  const auto attend =
      [&](const Matrix& q, int32_t layer, SequenceView s, const MutableMatrix& out) {
        return PagedAttention(pool_, q, cache.view(), layer, {&s, 1}, 1.0f, workspace, out).code();
      };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(attend(q, 0, {0, 40, 0, table}, result), absl::StatusCode::kOk);
  EXPECT_EQ(attend(q, kLayers, {0, 40, 0, table}, result), kInvalid);
  EXPECT_EQ(attend(q, 0, {1, 40, 0, table}, result), kInvalid);
  EXPECT_EQ(attend(q, 0, {0, 0, 0, table}, result), kInvalid);
  EXPECT_EQ(attend(q, 0, {0, 40, 30, table}, result), kInvalid) << "block table too short";
  EXPECT_EQ(attend(q, 0, {0, 40, 0, outside}, result), kInvalid) << "block outside the cache";
  EXPECT_EQ(attend(q.Columns(0, 500), 0, {0, 40, 0, table}, result.Columns(0, 500)), kInvalid);
  EXPECT_EQ(attend(q.Columns(0, 192), 0, {0, 40, 0, table}, result), kInvalid);
}

INSTANTIATE_TEST_SUITE_P(Isas, PagedAttentionTest, AllIsas(), IsaTestName);

}  // namespace
}  // namespace paceline::kernels
