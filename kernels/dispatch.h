// Which CPU instruction set the kernels use: the only place that branches on it. Every op keeps one
// table of functions per instruction set and asks Select() for the active one.
// Process-wide and set once at start (or by tests between ops); reading it is safe on any thread.
//
// All instruction sets but the portable one give the same bits (CpuIsaNumerics).
#ifndef PACELINE_KERNELS_DISPATCH_H_
#define PACELINE_KERNELS_DISPATCH_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace paceline::kernels {

// From the slowest to the fastest. Each can do what those before it can, but that processors with
// AVX-512 need not have AVX-VNNI, which is VNNI for AVX2.
enum class CpuIsa {
  kPortable,    // x86-64-v2 (what the whole binary is compiled for): the readable reference
  kAvx2,        // AVX2 + FMA + F16C (Haswell, Zen 1 and later)
  kAvxVnni,     // and AVX-VNNI (Alder Lake and later)
  kAvx512,      // AVX-512 F/BW/DQ/VL (Skylake-X)
  kAvx512Vnni,  // and VNNI (Ice Lake)
  kAvx512Bf16,  // and BF16 (Sapphire Rapids, Zen 4 and later)
};
inline constexpr CpuIsa kAllCpuIsas[] = {CpuIsa::kPortable,
                                         CpuIsa::kAvx2,
                                         CpuIsa::kAvxVnni,
                                         CpuIsa::kAvx512,
                                         CpuIsa::kAvx512Vnni,
                                         CpuIsa::kAvx512Bf16};

// "portable", "avx2", "avxvnni", "avx512bw", "avx512vnni" or "avx512bf16".
absl::string_view CpuIsaName(CpuIsa isa);

// The same text for instruction sets whose kernels give the same bits: "portable" or "fma".
absl::string_view CpuIsaNumerics(CpuIsa isa);

// InvalidArgument for an unknown name. "avx512" means "avx512vnni", whose name it was.
absl::StatusOr<CpuIsa> ParseCpuIsa(absl::string_view name);

// True when this processor and operating system can run `isa` (cpuid and xgetbv).
bool CpuIsaSupported(CpuIsa isa);

// The instruction set in use; the best supported one until somebody sets it.
CpuIsa ActiveCpuIsa();

// FailedPrecondition, changing nothing, when this machine cannot run `isa`.
absl::Status SetActiveCpuIsa(CpuIsa isa);

// Applies the environment variable PACELINE_CPU_ISA when it is set; an unknown or unsupported
// value is an error. Call once, from main or the engine's start.
absl::Status SetActiveCpuIsaFromEnvironment();

// One function table per instruction set. A null entry falls back to the one before it.
template <typename Table>
struct IsaTables {
  const Table* portable;
  const Table* avx2;
  const Table* avx512;
  const Table* avx512vnni = nullptr;
  const Table* avx512bf16 = nullptr;
  const Table* avxvnni = nullptr;
};

template <typename Table>
const Table& Select(const IsaTables<Table>& tables) {
  const CpuIsa isa = ActiveCpuIsa();
  if (isa >= CpuIsa::kAvx512Bf16 && tables.avx512bf16 != nullptr) return *tables.avx512bf16;
  if (isa >= CpuIsa::kAvx512Vnni && tables.avx512vnni != nullptr) return *tables.avx512vnni;
  if (isa >= CpuIsa::kAvx512 && tables.avx512 != nullptr) return *tables.avx512;
  if (isa == CpuIsa::kAvxVnni && tables.avxvnni != nullptr) return *tables.avxvnni;
  if (isa >= CpuIsa::kAvx2 && tables.avx2 != nullptr) return *tables.avx2;
  return *tables.portable;
}

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_DISPATCH_H_
