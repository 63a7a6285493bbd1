// The AVX-VNNI kernels give the bits of the AVX2 ones. They are compiled a second time with the
// encodings of AVX-512 (kGemmAvxVnniTwin), since processors with AVX-VNNI itself are rarer.
#include <vector>

#include "kernels/gemm/activations.h"
#include "kernels/gemm/gemm_kernels.h"
#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {

extern const GemmKernels kGemmAvxVnniTwin;

namespace {

using Kernel = void (*)(const GemmArgs&);

// y [m, n] from some y before, which is added to.
std::vector<float> Run(Kernel kernel, const PackedMatrix& w, const Activations& x) {
  std::vector<float> y(x.rows() * w.n(), 0.5f);
  const bool int8 = x.form() == ActivationForm::kInt8;
  kernel({.w = w.group(0),
          .group_bytes = w.group_bytes(),
          .num_groups = w.num_groups(),
          .num_rows = w.n(),
          .k = w.k(),
          .x = int8 ? static_cast<const void*>(x.block_row(0)) : x.float_row(0),
          .x_stride = int8 ? w.k() / 32 : w.k(),
          .m = x.rows(),
          .y = y.data(),
          .y_stride = w.n(),
          .bias = nullptr,
          .accumulate = true});
  return y;
}

void ExpectSameBits(ActivationForm form, WeightFormat format, bool largest) {
  ThreadPool pool(1, false);
  const int64_t n = 40, k = 1536;
  const int format_index = static_cast<int>(format);
  const bool int8 = form == ActivationForm::kInt8;
  const PackedMatrix w = PackOrDie(pool, RandomWeights(format, n, k, 1));
  for (const int64_t m : {1, 2, 3, 4, 5, 9, 64}) {
    std::vector<float> values = RandomFloats(m * k, 2);
    if (largest) {  // every product at its limits
      for (size_t i = 0; i < values.size(); ++i) values[i] = i % 31 == 0 ? -16000.0f : 1000.0f;
    }
    Activations x(form);
    ASSERT_TRUE(QuantizeActivations(pool, Matrix(values.data(), m, k), x).ok());
    const auto& avx2 = int8 ? kGemmAvx2.int8 : kGemmAvx2.float32;
    const auto& vnni = int8 ? kGemmAvxVnniTwin.int8 : kGemmAvxVnniTwin.float32;
    const std::vector<float> expected = Run(avx2[format_index], w, x);
    const std::vector<float> y = Run(vnni[format_index], w, x);
    EXPECT_NE(expected.front(), 0.5f);
    EXPECT_TRUE(SameBits(y.data(), expected.data(), m * n))
        << WeightFormatName(format) << ", " << m << " rows";
  }
}

class AvxVnniTest : public testing::TestWithParam<WeightFormat> {
 protected:
  void SetUp() override {
    if (!CpuIsaSupported(CpuIsa::kAvx512Vnni)) GTEST_SKIP() << "not on this machine";
  }
};

TEST_P(AvxVnniTest, Int8InputGivesTheBitsOfAvx2) {
  ExpectSameBits(ActivationForm::kInt8, GetParam(), /*largest=*/false);
}

TEST_P(AvxVnniTest, LargestProductsGiveTheBitsOfAvx2) {
  ExpectSameBits(ActivationForm::kInt8, GetParam(), /*largest=*/true);
}

TEST_P(AvxVnniTest, FloatInputGivesTheBitsOfAvx2) {
  ExpectSameBits(ActivationForm::kFloat32, GetParam(), /*largest=*/false);
}

INSTANTIATE_TEST_SUITE_P(, AvxVnniTest, testing::ValuesIn(kQuantizedFormats));

}  // namespace
}  // namespace paceline::kernels
