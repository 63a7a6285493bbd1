// A linear layer on a device: y = x W^T (+ b), where W's rows may come from several tensors. Owned
// by the model; the thread whose device it is.
#ifndef PACELINE_WORKER_MODELS_DEVICE_DEVICE_LINEAR_H_
#define PACELINE_WORKER_MODELS_DEVICE_DEVICE_LINEAR_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/device/stream.h"
#include "kernels/gemm/matmul_device.h"
#include "kernels/tensor_view.h"
#include "worker/device/device_memory.h"
#include "worker/weights/weight_loader.h"

namespace paceline::worker {

// `bytes` of host memory, copied to a buffer of their own before it returns.
absl::StatusOr<DeviceBuffer> Upload(kernels::device::Stream stream,
                                    const void* from,
                                    int64_t bytes,
                                    int64_t& count);

// What a layer computes from and to.
struct DeviceLinearArgs {
  const void* x;  // [rows, input_size] of the model's type
  int32_t rows;
  void* y;           // [rows, output_size] of y_dtype
  int64_t y_stride;  // elements
  kernels::DType y_dtype;
  bool accumulate = false;  // add to y, which is float32
};

class DeviceLinear {
 public:
  // Loads these rows (and columns) of "<name>.weight" of each and, where the file has one, of
  // "<name>.bias". Weights that are not quantised are rounded to `dtype`, the type of the input.
  static absl::StatusOr<DeviceLinear> Load(WeightLoader& loader,
                                           kernels::device::Stream stream,
                                           absl::Span<const TensorRows> layers,
                                           kernels::DType dtype,
                                           int64_t& weight_bytes);

  int64_t output_size() const { return n_; }

  absl::Status Forward(kernels::device::Stream stream, const DeviceLinearArgs& args) const;

 private:
  struct Part {
    DeviceBuffer values;
    DeviceBuffer scales;
    kernels::DeviceMatrix matrix;
  };

  absl::Status AddPart(WeightLoader& loader,
                       kernels::device::Stream stream,
                       absl::Span<const TensorRows> tensors,
                       int64_t& weight_bytes);

  kernels::DType dtype_ = kernels::DType::kBF16;
  int64_t n_ = 0;
  std::vector<Part> parts_;  // adjacent ranges of outputs, each of one format
  DeviceBuffer bias_;        // [n] f32 or empty
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_DEVICE_DEVICE_LINEAR_H_
