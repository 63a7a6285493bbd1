// CUDA's errors as statuses (kernels/device/runtime.h says which). Stateless; any thread.
#ifndef PACELINE_KERNELS_DEVICE_NATIVE_ERROR_H_
#define PACELINE_KERNELS_DEVICE_NATIVE_ERROR_H_

#include <cuda_runtime_api.h>

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace paceline::kernels::device {

inline absl::Status ToStatus(cudaError_t error) {
  if (error == cudaSuccess) return absl::OkStatus();
  cudaGetLastError();  // those that do not stick are told once
  if (error == cudaErrorMemoryAllocation) {
    return absl::ResourceExhaustedError("out of GPU memory");
  }
  const std::string text =
      absl::StrCat("CUDA: ", cudaGetErrorName(error), ": ", cudaGetErrorString(error));
  // What sticks comes out of every later call too.
  return cudaPeekAtLastError() != cudaSuccess || cudaDeviceSynchronize() != cudaSuccess
             ? absl::UnavailableError(absl::StrCat("the GPU has failed: ", text))
             : absl::InternalError(text);
}

}  // namespace paceline::kernels::device

#endif  // PACELINE_KERNELS_DEVICE_NATIVE_ERROR_H_
