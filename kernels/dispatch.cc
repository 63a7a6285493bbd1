#include "kernels/dispatch.h"

#include <cpuid.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace paceline::kernels {
namespace {

// Extended control register 0: which register state the operating system saves.
uint64_t ReadXcr0() {
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

bool DetectAvx512Vnni() {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return false;
  constexpr uint32_t kFma = 1u << 12, kOsxsave = 1u << 27, kF16c = 1u << 29;
  if ((c & kFma) == 0 || (c & kOsxsave) == 0 || (c & kF16c) == 0) return false;
  constexpr uint64_t kZmmState = 0xe6;  // SSE, AVX, opmask, upper halves, upper registers
  if ((ReadXcr0() & kZmmState) != kZmmState) return false;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr uint32_t kF = 1u << 16, kDq = 1u << 17, kBw = 1u << 30, kVl = 1u << 31;
  constexpr uint32_t kAvx2 = 1u << 5, kVnni = 1u << 11;
  constexpr uint32_t kNeeded = kAvx2 | kF | kDq | kBw | kVl;
  return (b & kNeeded) == kNeeded && (c & kVnni) != 0;
}

std::atomic<CpuIsa>& Active() {
  static std::atomic<CpuIsa> active(CpuIsaSupported(CpuIsa::kAvx512Vnni) ? CpuIsa::kAvx512Vnni
                                                                         : CpuIsa::kPortable);
  return active;
}

}  // namespace

absl::string_view CpuIsaName(CpuIsa isa) {
  return isa == CpuIsa::kAvx512Vnni ? "avx512" : "portable";
}

absl::StatusOr<CpuIsa> ParseCpuIsa(absl::string_view name) {
  for (CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAvx512Vnni}) {
    if (name == CpuIsaName(isa)) return isa;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown CPU instruction set '", name, "' (known: portable, avx512)"));
}

bool CpuIsaSupported(CpuIsa isa) {
  static const bool avx512 = DetectAvx512Vnni();
  return isa == CpuIsa::kPortable || avx512;
}

CpuIsa ActiveCpuIsa() { return Active().load(std::memory_order_relaxed); }

absl::Status SetActiveCpuIsa(CpuIsa isa) {
  if (!CpuIsaSupported(isa)) {
    return absl::FailedPreconditionError(
        absl::StrCat("this machine cannot run the '", CpuIsaName(isa), "' kernels"));
  }
  Active().store(isa, std::memory_order_relaxed);
  return absl::OkStatus();
}

absl::Status SetActiveCpuIsaFromEnvironment() {
  const char* value = std::getenv("PACELINE_CPU_ISA");
  if (value == nullptr) return absl::OkStatus();
  absl::StatusOr<CpuIsa> isa = ParseCpuIsa(value);
  if (!isa.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("PACELINE_CPU_ISA: ", isa.status().message()));
  }
  return SetActiveCpuIsa(*isa);
}

}  // namespace paceline::kernels
