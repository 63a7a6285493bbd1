#include "kernels/dispatch.h"

#include <cstdlib>

#include "gtest/gtest.h"

namespace paceline::kernels {
namespace {

class DispatchTest : public testing::Test {
 protected:
  void TearDown() override {
    unsetenv("PACELINE_CPU_ISA");
    ASSERT_TRUE(SetActiveCpuIsa(before_).ok());
  }
  const CpuIsa before_ = ActiveCpuIsa();
};

TEST_F(DispatchTest, NamesParseBack) {
  for (CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAvx512Vnni}) {
    EXPECT_EQ(ParseCpuIsa(CpuIsaName(isa)).value(), isa);
  }
}

TEST_F(DispatchTest, UnknownNamesAreInvalid) {
  EXPECT_EQ(ParseCpuIsa("mmx").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(ParseCpuIsa("").ok());
}

TEST_F(DispatchTest, EveryMachineRunsThePortableKernels) {
  EXPECT_TRUE(CpuIsaSupported(CpuIsa::kPortable));
  EXPECT_TRUE(SetActiveCpuIsa(CpuIsa::kPortable).ok());
  EXPECT_EQ(ActiveCpuIsa(), CpuIsa::kPortable);
}

TEST_F(DispatchTest, UnsupportedSetsAreRefused) {
  if (CpuIsaSupported(CpuIsa::kAvx512Vnni)) GTEST_SKIP() << "this machine has them all";
  EXPECT_EQ(SetActiveCpuIsa(CpuIsa::kAvx512Vnni).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(DispatchTest, TheEnvironmentOverridesDetection) {
  setenv("PACELINE_CPU_ISA", "portable", 1);
  EXPECT_TRUE(SetActiveCpuIsaFromEnvironment().ok());
  EXPECT_EQ(ActiveCpuIsa(), CpuIsa::kPortable);
}

TEST_F(DispatchTest, AWrongEnvironmentIsAnErrorAndChangesNothing) {
  setenv("PACELINE_CPU_ISA", "sse9", 1);
  const auto status = SetActiveCpuIsaFromEnvironment();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("PACELINE_CPU_ISA"), absl::string_view::npos);
  EXPECT_EQ(ActiveCpuIsa(), before_);
}

TEST_F(DispatchTest, SelectFallsBackWhenATableIsMissing) {
  const int portable = 1, avx512 = 2;
  ASSERT_TRUE(SetActiveCpuIsa(CpuIsa::kPortable).ok());
  EXPECT_EQ(Select(IsaTables<int>{&portable, &avx512}), 1);
  if (!SetActiveCpuIsa(CpuIsa::kAvx512Vnni).ok()) return;
  EXPECT_EQ(Select(IsaTables<int>{&portable, &avx512}), 2);
  EXPECT_EQ(Select(IsaTables<int>{&portable, nullptr}), 1);
}

}  // namespace
}  // namespace paceline::kernels
