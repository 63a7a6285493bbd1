#include "kernels/dispatch.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>

#include "gtest/gtest.h"

namespace paceline::kernels {
namespace {

// Whether the operating system lists the feature. Compilers of before 2023 do not know all.
bool LinuxNames(const std::string& feature) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string word; file >> word;) {
    if (word == feature) return true;
  }
  return false;
}

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
  EXPECT_EQ(CpuIsaSupported(CpuIsa::kAvxVnni), LinuxNames("avx_vnni"));
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
  EXPECT_TRUE(CpuIsaSupported(before_));
  for (CpuIsa isa : kAllCpuIsas) {
    EXPECT_FALSE(isa > before_ && CpuIsaSupported(isa)) << CpuIsaName(isa);
  }
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
  const int portable = 0, avx2 = 1, avxvnni = 2, avx512 = 3, avx512vnni = 4, avx512bf16 = 5;
  for (CpuIsa isa : kAllCpuIsas) {
    if (!SetActiveCpuIsa(isa).ok()) continue;  // not on this machine
    const int rank = static_cast<int>(isa);
    const int vnni_is_avx2 = rank == avxvnni ? avx2 : rank;
    EXPECT_EQ(Select(IsaTables<int>{&portable, &avx2, &avx512, &avx512vnni, &avx512bf16, &avxvnni}),
              rank);
    EXPECT_EQ(Select(IsaTables<int>{&portable, &avx2, &avx512, &avx512vnni}),
              std::min(vnni_is_avx2, avx512vnni));
    EXPECT_EQ(Select(IsaTables<int>{&portable, &avx2, &avx512}), std::min(vnni_is_avx2, avx512));
    EXPECT_EQ(Select(IsaTables<int>{&portable, nullptr, nullptr, nullptr}), portable);
    EXPECT_EQ(Select(IsaTables<int>{&portable, nullptr, &avx512}),
              rank < avx512 ? portable : avx512);
  }
}

}  // namespace
}  // namespace paceline::kernels
