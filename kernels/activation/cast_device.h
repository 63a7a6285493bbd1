// Between float32 and the 16-bit types on the device. Stateless; enqueues on the stream; pointers
// are of device memory.
#ifndef PACELINE_KERNELS_ACTIVATION_CAST_DEVICE_H_
#define PACELINE_KERNELS_ACTIVATION_CAST_DEVICE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "kernels/tensor_view.h"

namespace paceline::kernels {

// Rounds `count` numbers to `dtype` (kBF16 or kF16), to nearest even. InvalidArgument when count is
// not positive or for another dtype; Internal when the launch fails.
absl::Status DeviceRound(
    device::Stream stream, const float* from, void* to, int64_t count, DType dtype);

// The other way, exactly.
absl::Status DeviceWiden(
    device::Stream stream, const void* from, float* to, int64_t count, DType dtype);

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_ACTIVATION_CAST_DEVICE_H_
