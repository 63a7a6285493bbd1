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

constexpr unsigned Bit(CpuIsa isa) { return 1u << static_cast<int>(isa); }

// A bit for each instruction set that can run here.
unsigned DetectCpuIsas() {
  unsigned found = Bit(CpuIsa::kPortable);
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return found;
  constexpr uint32_t kFma = 1u << 12, kOsxsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
  constexpr uint32_t kFirst = kFma | kOsxsave | kAvx | kF16c;
  if ((c & kFirst) != kFirst) return found;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return found;
  const uint64_t state = ReadXcr0();
  constexpr uint64_t kYmmState = 0x6;  // SSE, AVX
  constexpr uint32_t kAvx2 = 1u << 5;
  if ((state & kYmmState) != kYmmState || (b & kAvx2) == 0) return found;
  found |= Bit(CpuIsa::kAvx2);
  uint32_t more = 0, unused = 0;
  if (__get_cpuid_count(7, 1, &more, &unused, &unused, &unused) == 0) more = 0;
  constexpr uint32_t kAvxVnni = 1u << 4, kBf16 = 1u << 5;
  if ((more & kAvxVnni) != 0) found |= Bit(CpuIsa::kAvxVnni);
  constexpr uint64_t kZmmState = 0xe6;  // and opmask, upper halves, upper registers
  constexpr uint32_t kBmi1 = 1u << 3, kBmi2 = 1u << 8;
  constexpr uint32_t kF = 1u << 16, kDq = 1u << 17, kBw = 1u << 30, kVl = 1u << 31;
  constexpr uint32_t kAvx512 = kBmi1 | kBmi2 | kF | kDq | kBw | kVl;
  if ((state & kZmmState) != kZmmState || (b & kAvx512) != kAvx512) return found;
  found |= Bit(CpuIsa::kAvx512);
  constexpr uint32_t kVnni = 1u << 11;
  if ((c & kVnni) == 0) return found;
  found |= Bit(CpuIsa::kAvx512Vnni);
  if ((more & kBf16) != 0) found |= Bit(CpuIsa::kAvx512Bf16);
  return found;
}

unsigned SupportedCpuIsas() {
  static const unsigned supported = DetectCpuIsas();
  return supported;
}

CpuIsa BestCpuIsa() {
  CpuIsa best = CpuIsa::kPortable;
  for (CpuIsa isa : kAllCpuIsas) {
    if ((SupportedCpuIsas() & Bit(isa)) != 0) best = isa;
  }
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
    case CpuIsa::kAvxVnni:
      return "avxvnni";
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
  return absl::InvalidArgumentError(
      absl::StrCat("unknown CPU instruction set '",
                   name,
                   "' (known: portable, avx2, avxvnni, avx512bw, avx512vnni, "
                   "avx512bf16)"));
}

bool CpuIsaSupported(CpuIsa isa) { return (SupportedCpuIsas() & Bit(isa)) != 0; }

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
