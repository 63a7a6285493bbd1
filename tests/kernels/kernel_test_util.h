// What kernel tests share: forcing an instruction set, random tensors, and weights as a GGUF file
// stores them together with their exact values. Test code; single-threaded.
#ifndef PACELINE_TESTS_KERNELS_KERNEL_TEST_UTIL_H_
#define PACELINE_TESTS_KERNELS_KERNEL_TEST_UTIL_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/dispatch.h"
#include "kernels/gemm/packed_matrix.h"
#include "kernels/tensor_view.h"

namespace paceline::kernels {

// A test that runs once per instruction set that this machine has.
class IsaTest : public testing::TestWithParam<CpuIsa> {
 protected:
  void SetUp() override {
    if (!CpuIsaSupported(GetParam())) GTEST_SKIP() << "not on this machine";
    ASSERT_TRUE(SetActiveCpuIsa(GetParam()).ok());
  }
  void TearDown() override { ASSERT_TRUE(SetActiveCpuIsa(before_).ok()); }

 private:
  const CpuIsa before_ = ActiveCpuIsa();
};

inline auto AllIsas() { return testing::ValuesIn(kAllCpuIsas); }

inline std::string IsaTestName(const testing::TestParamInfo<CpuIsa>& info) {
  return std::string(CpuIsaName(info.param));
}

// Independent of the code under test: arithmetic, not bit tricks.
inline double HalfValue(uint16_t h) {
  const int exponent = h >> 10 & 31;
  const double fraction = h & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return (h & 0x8000) != 0 ? -magnitude : magnitude;
}

// Of 8-bit floating point with 4 bits of exponent; 0x7f and 0xff are no numbers.
inline double E4M3Value(uint8_t code) {
  const int exponent = code >> 3 & 15;
  const int fraction = code & 7;
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}
// The code of the nearest number, of two the even one.
inline uint8_t NearestE4M3(double x) {
  int best = 0;
  for (int code = 1; code <= 0x7e; ++code) {
    const double distance = std::fabs(E4M3Value(code) - std::fabs(x));
    const double least = std::fabs(E4M3Value(best) - std::fabs(x));
    if (distance < least || (distance == least && code % 2 == 0)) best = code;
  }
  return static_cast<uint8_t>(best | (std::signbit(x) ? 0x80 : 0));
}

inline std::vector<float> RandomFloats(int64_t count, uint32_t seed, float spread = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

template <typename T>
bool SameBits(const T* a, const T* b, int64_t count) {
  return std::memcmp(a, b, count * sizeof(T)) == 0;
}
// Without what fills a block up to a line.
inline bool SameBits(const ActivationBlock* a, const ActivationBlock* b, int64_t count) {
  constexpr size_t kUsed = offsetof(ActivationBlock, wide_quad) + sizeof(a->wide_quad);
  for (int64_t i = 0; i < count; ++i) {
    if (std::memcmp(&a[i], &b[i], kUsed) != 0) return false;
  }
  return true;
}

// A matrix [n, k] in GGUF bytes and its exact values.
struct TestWeights {
  WeightFormat format;
  int64_t n;
  int64_t k;
  std::vector<uint8_t> bytes;
  std::vector<double> values;
};

// A finite positive half in [2^-8, 2^-7) or, with a sign bit, its negative.
inline uint16_t RandomHalf(std::mt19937& random) {
  return static_cast<uint16_t>(7 << 10 | (random() & 1023));
}

inline TestWeights RandomWeights(WeightFormat format, int64_t n, int64_t k, uint32_t seed) {
  TestWeights w{format, n, k, {}, std::vector<double>(n * k)};
  std::mt19937 random(seed);
  const auto put16 = [&](uint16_t value) {
    w.bytes.push_back(static_cast<uint8_t>(value));
    w.bytes.push_back(static_cast<uint8_t>(value >> 8));
  };
  const auto put_nibbles = [&](double d, double m, double bias, double* out) {
    for (int i = 0; i < 16; ++i) {
      const auto byte = static_cast<uint8_t>(random());
      w.bytes.push_back(byte);
      out[i] = d * ((byte & 15) - bias) + m;
      out[i + 16] = d * ((byte >> 4) - bias) + m;
    }
  };
  for (int64_t row = 0; row < n; ++row) {
    double* const out = w.values.data() + row * k;
    if (format == WeightFormat::kF32 || format == WeightFormat::kF16 ||
        format == WeightFormat::kBF16 || format == WeightFormat::kBF16Pairs) {
      std::normal_distribution<float> normal(0.0f, 0.1f);
      for (int64_t i = 0; i < k; ++i) {
        if (format == WeightFormat::kF16) {
          const auto half = static_cast<uint16_t>(RandomHalf(random) | (random() & 1) << 15);
          put16(half);
          out[i] = HalfValue(half);
          continue;
        }
        float value = normal(random);
        uint32_t bits;
        std::memcpy(&bits, &value, 4);
        if (format != WeightFormat::kF32) bits &= 0xffff0000;
        if (format == WeightFormat::kF32) put16(static_cast<uint16_t>(bits));
        put16(static_cast<uint16_t>(bits >> 16));
        std::memcpy(&value, &bits, 4);
        out[i] = value;
      }
      continue;
    }
    for (int64_t i = 0; i < k; i += 32) {
      const uint16_t d = RandomHalf(random);
      put16(d);
      if (format == WeightFormat::kQ4_1) {
        const auto m = static_cast<uint16_t>(RandomHalf(random) | 0x8000);
        put16(m);
        put_nibbles(HalfValue(d), HalfValue(m), 0, out + i);
      } else if (format == WeightFormat::kQ4_0) {
        put_nibbles(HalfValue(d), 0, 8, out + i);
      } else {
        for (int c = 0; c < 32; ++c) {
          const auto q = static_cast<int8_t>(random());
          w.bytes.push_back(static_cast<uint8_t>(q));
          out[i + c] = HalfValue(d) * q;
        }
      }
    }
  }
  return w;
}

inline PackedMatrix PackOrDie(ThreadPool& pool, const TestWeights& w) {
  auto packed = Pack(pool, w.format, w.bytes.data(), w.n, w.k);
  if (!packed.ok()) ADD_FAILURE() << packed.status();
  return *std::move(packed);
}

constexpr WeightFormat kAllFormats[] = {WeightFormat::kF32,
                                        WeightFormat::kF16,
                                        WeightFormat::kBF16,
                                        WeightFormat::kQ8_0,
                                        WeightFormat::kQ4_0,
                                        WeightFormat::kQ4_1,
                                        WeightFormat::kBF16Pairs};
constexpr WeightFormat kQuantizedFormats[] = {
    WeightFormat::kQ8_0, WeightFormat::kQ4_0, WeightFormat::kQ4_1};

// Column `c` of a block in units of its scale.
inline int BlockValue(const ActivationBlock& block, int c) {
  return block.q[c] + (c / 4 == block.wide_quad ? 16 * block.high[c % 4] : 0);
}

}  // namespace paceline::kernels

#endif  // PACELINE_TESTS_KERNELS_KERNEL_TEST_UTIL_H_
