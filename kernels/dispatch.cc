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

CpuIsa DetectCpuIsa() {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return CpuIsa::kPortable;
  constexpr uint32_t kFma = 1u << 12, kOsxsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
  constexpr uint32_t kFirst = kFma | kOsxsave | kAvx | kF16c;
  if ((c & kFirst) != kFirst) return CpuIsa::kPortable;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return CpuIsa::kPortable;
  const uint64_t state = ReadXcr0();
  constexpr uint64_t kYmmState = 0x6;  // SSE, AVX
  constexpr uint32_t kAvx2 = 1u << 5;
  if ((state & kYmmState) != kYmmState || (b & kAvx2) == 0) return CpuIsa::kPortable;
  constexpr uint64_t kZmmState = 0xe6;  // and opmask, upper halves, upper registers
  constexpr uint32_t kBmi1 = 1u << 3, kBmi2 = 1u << 8;
  constexpr uint32_t kF = 1u << 16, kDq = 1u << 17, kBw = 1u << 30, kVl = 1u << 31;
  constexpr uint32_t kAvx512 = kBmi1 | kBmi2 | kF | kDq | kBw | kVl;
  if ((state & kZmmState) != kZmmState || (b & kAvx512) != kAvx512) return CpuIsa::kAvx2;
  constexpr uint32_t kVnni = 1u << 11;
  if ((c & kVnni) == 0) return CpuIsa::kAvx512;
  constexpr uint32_t kBf16 = 1u << 5;
  const bool has_bf16 = __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & kBf16) != 0;
  return has_bf16 ? CpuIsa::kAvx512Bf16 : CpuIsa::kAvx512Vnni;
}

CpuIsa BestCpuIsa() {
  static const CpuIsa best = DetectCpuIsa();
  return best;
}

std::atomic<CpuIsa>& Active() {
  static std::atomic<CpuIsa> active(BestCpuIsa());
  return active;
}

}  // namespace

absl::string_view CpuIsaName(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kPortable:
      return "portable";
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kAvx512:
      return "avx512bw";
    case CpuIsa::kAvx512Vnni:
      return "avx512vnni";
    case CpuIsa::kAvx512Bf16:
      return "avx512bf16";
  }
  return "unknown";
}

absl::string_view CpuIsaNumerics(CpuIsa isa) {
  return isa == CpuIsa::kPortable ? "portable" : "fma";
}

absl::StatusOr<CpuIsa> ParseCpuIsa(absl::string_view name) {
  if (name == "avx512") return CpuIsa::kAvx512Vnni;
  for (CpuIsa isa : kAllCpuIsas) {
    if (name == CpuIsaName(isa)) return isa;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown CPU instruction set '", name, "' (known: portable, avx2, avx512bw, avx512vnni, avx512bf16)"));
}

bool CpuIsaSupported(CpuIsa isa) { return isa <= BestCpuIsa(); }

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
