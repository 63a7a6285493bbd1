#include "kernels/dispatch.h"

#include <algorithm>
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
  for (CpuIsa isa : kAllCpuIsas) {
    EXPECT_EQ(ParseCpuIsa(CpuIsaName(isa)).value(), isa);
  }
}

TEST_F(DispatchTest, TheFormerNameOfVnniStillMeansIt) {
  EXPECT_EQ(ParseCpuIsa("avx512").value(), CpuIsa::kAvx512Vnni);
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
  for (CpuIsa isa : kAllCpuIsas) {
    if (CpuIsaSupported(isa)) continue;
    EXPECT_EQ(SetActiveCpuIsa(isa).code(), absl::StatusCode::kFailedPrecondition);
  }
}

TEST_F(DispatchTest, WhatTheCompilerFindsIsSupported) {
  EXPECT_EQ(CpuIsaSupported(CpuIsa::kAvx2),
            __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                __builtin_cpu_supports("f16c"));
  EXPECT_EQ(CpuIsaSupported(CpuIsa::kAvx512),
            CpuIsaSupported(CpuIsa::kAvx2) && __builtin_cpu_supports("avx512f") &&
                __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512vl"));
  EXPECT_EQ(CpuIsaSupported(CpuIsa::kAvx512Vnni),
            CpuIsaSupported(CpuIsa::kAvx512) && __builtin_cpu_supports("avx512vnni"));
  EXPECT_EQ(CpuIsaSupported(CpuIsa::kAvx512Bf16),
            CpuIsaSupported(CpuIsa::kAvx512Vnni) && __builtin_cpu_supports("avx512bf16"));
}

TEST_F(DispatchTest, TheBestSupportedSetIsActive) {
  for (CpuIsa isa : kAllCpuIsas) EXPECT_EQ(isa <= before_, CpuIsaSupported(isa));
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

TEST_F(DispatchTest, SelectTakesTheBestTableThatIsThere) {
  const int portable = 0, avx2 = 1, avx512 = 2, avx512vnni = 3, avx512bf16 = 4;
  for (CpuIsa isa : kAllCpuIsas) {
    if (!SetActiveCpuIsa(isa).ok()) continue;  // not on this machine
    const int rank = static_cast<int>(isa);
    EXPECT_EQ(Select(IsaTables<int>{&portable, &avx2, &avx512, &avx512vnni, &avx512bf16}), rank);
    EXPECT_EQ(Select(IsaTables<int>{&portable, &avx2, &avx512, &avx512vnni}), std::min(rank, 3));
    EXPECT_EQ(Select(IsaTables<int>{&portable, &avx2, &avx512}), std::min(rank, 2));
    EXPECT_EQ(Select(IsaTables<int>{&portable, nullptr, nullptr, nullptr}), 0);
    EXPECT_EQ(Select(IsaTables<int>{&portable, nullptr, &avx512}), rank < 2 ? 0 : 2);
  }
}

}  // namespace
}  // namespace paceline::kernels
