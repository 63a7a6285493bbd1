// Which CPU instruction set the kernels use: the only place that branches on it. Every op keeps one
// table of functions per instruction set and asks Select() for the active one.
// Process-wide and set once at start (or by tests between ops); reading it is safe on any thread.
//
// Results are bit-identical for one instruction set, not across them: a cluster that fails streams
// over between machines must run one instruction set.
#ifndef PACELINE_KERNELS_DISPATCH_H_
#define PACELINE_KERNELS_DISPATCH_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace paceline::kernels {

enum class CpuIsa {
  kPortable,    // x86-64-v2 (what the whole binary is compiled for): the readable reference
  kAvx512Vnni,  // AVX-512 F/BW/DQ/VL/VNNI + F16C + FMA (Ice Lake, Zen 4 and later)
};

// "portable" or "avx512".
absl::string_view CpuIsaName(CpuIsa isa);

// InvalidArgument for an unknown name.
absl::StatusOr<CpuIsa> ParseCpuIsa(absl::string_view name);

// True when this processor and operating system can run `isa` (cpuid and xgetbv).
bool CpuIsaSupported(CpuIsa isa);

// The instruction set in use; the best supported one until somebody sets it.
CpuIsa ActiveCpuIsa();

// FailedPrecondition, changing nothing, when this machine cannot run `isa`.
absl::Status SetActiveCpuIsa(CpuIsa isa);

// Applies the environment variable PACELINE_CPU_ISA (portable|avx512) when it is set; an unknown or
// unsupported value is an error. Call once, from main or the engine's start.
absl::Status SetActiveCpuIsaFromEnvironment();

// One function table per instruction set. A null entry falls back to the next simpler one.
template <typename Table>
struct IsaTables {
  const Table* portable;
  const Table* avx512;
};

template <typename Table>
const Table& Select(const IsaTables<Table>& tables) {
  if (ActiveCpuIsa() == CpuIsa::kAvx512Vnni && tables.avx512 != nullptr) return *tables.avx512;
  return *tables.portable;
}

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_DISPATCH_H_
