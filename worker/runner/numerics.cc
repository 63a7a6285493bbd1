#include "worker/runner/numerics.h"

#include <gnu/libc-version.h>

#include "kernels/dispatch.h"

namespace paceline::worker {

std::string Numerics(std::string_view model_digest,
                     std::string_view release,
                     kernels::ComputeType compute,
                     kernels::DType kv_dtype,
                     int32_t num_summing_ranks,
                     std::string_view device) {
  // The C library has variants of its functions for processors with fused multiply-add.
  const bool has_fma = __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx2");
  const absl::string_view isa = kernels::CpuIsaNumerics(kernels::ActiveCpuIsa());
  std::string text(model_digest);
  text.append(" paceline-").append(release);
  text.append(" ").append(isa.data(), isa.size());
  if (!device.empty()) {
    text.append(" ").append(device);
  } else {
    text.append(compute == kernels::ComputeType::kInt8 ? " int8" : " float32");
  }
  text.append(" kv-").append(KvDtypeName(kv_dtype));
  if (num_summing_ranks > 1) text.append(" sums-").append(std::to_string(num_summing_ranks));
  text.append(" glibc-").append(gnu_get_libc_version()).append(has_fma ? "-fma" : "");
  return text;
}

std::string_view KvDtypeName(kernels::DType kv_dtype) {
  switch (kv_dtype) {
    case kernels::DType::kF16:
      return "f16";
    case kernels::DType::kI8:
      return "int8";
    case kernels::DType::kE4M3:
      return "fp8";
    case kernels::DType::kBF16:
      return "bf16";
    default:
      return "f32";
  }
}

}  // namespace paceline::worker
