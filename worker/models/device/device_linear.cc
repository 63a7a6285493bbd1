#include "worker/models/device/device_linear.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/gemm/device_matrix.h"
#include "proto/support/status_macros.h"
#include "worker/layers/linear_tensors.h"

namespace paceline::worker {

absl::StatusOr<DeviceBuffer> Upload(kernels::device::Stream stream,
                                    const void* from,
                                    int64_t bytes,
                                    int64_t& count) {
  ASSIGN_OR_RETURN(DeviceBuffer buffer, DeviceBuffer::Allocate(bytes, count));
  RETURN_IF_ERROR(kernels::device::Copy(stream, buffer.data(), from, bytes));
  RETURN_IF_ERROR(kernels::device::Synchronize(stream));
  return buffer;
}

absl::StatusOr<DeviceLinear> DeviceLinear::Load(WeightLoader& loader,
                                                kernels::device::Stream stream,
                                                absl::Span<const TensorRows> layers,
                                                kernels::DType dtype,
                                                int64_t& weight_bytes) {
  DeviceLinear linear;
  linear.dtype_ = dtype;
  std::vector<TensorRows> weights;
  for (const auto run : RunsOfOneFormat(loader, layers, weights)) {
    RETURN_IF_ERROR(linear.AddPart(loader, stream, run, weight_bytes));
  }
  ASSIGN_OR_RETURN(const std::vector<float> bias, LoadBias(loader, layers));
  if (!bias.empty()) {
    ASSIGN_OR_RETURN(
        linear.bias_,
        Upload(
            stream, bias.data(), static_cast<int64_t>(bias.size() * sizeof(float)), weight_bytes));
  }
  return linear;
}

absl::Status DeviceLinear::AddPart(WeightLoader& loader,
                                   kernels::device::Stream stream,
                                   absl::Span<const TensorRows> tensors,
                                   int64_t& weight_bytes) {
  ASSIGN_OR_RETURN(const MatrixRows rows, loader.Sources(tensors));
  if (!parts_.empty() && rows.k != parts_[0].matrix.k) {
    return absl::InvalidArgumentError(
        absl::StrCat("gguf: tensor '", tensors[0].name, "' has another width than its neighbours"));
  }
  ASSIGN_OR_RETURN(const kernels::PackedDeviceMatrix packed,
                   kernels::PackForDevice(rows.format, rows.sources, rows.k, dtype_));
  Part part;
  ASSIGN_OR_RETURN(
      part.values,
      Upload(
          stream, packed.values.data(), static_cast<int64_t>(packed.values.size()), weight_bytes));
  if (!packed.scales.empty()) {
    ASSIGN_OR_RETURN(part.scales,
                     Upload(stream,
                            packed.scales.data(),
                            static_cast<int64_t>(packed.scales.size() * sizeof(uint16_t)),
                            weight_bytes));
  }
  part.matrix = {.format = packed.format,
                 .values = part.values.data(),
                 .scales = part.scales.as<const uint16_t>(),
                 .n = packed.n,
                 .k = packed.k};
  n_ += packed.n;
  parts_.push_back(std::move(part));
  return absl::OkStatus();
}

absl::Status DeviceLinear::Forward(kernels::device::Stream stream,
                                   const DeviceLinearArgs& args) const {
  int64_t first = 0;
  for (const Part& part : parts_) {
    RETURN_IF_ERROR(kernels::DeviceMatmul(
        stream,
        {.x = args.x,
         .w = part.matrix,
         .bias = bias_.bytes() == 0 ? nullptr : bias_.as<const float>() + first,
         .y = static_cast<char*>(args.y) + first * kernels::DTypeSize(args.y_dtype),
         .y_stride = args.y_stride,
         .rows = args.rows,
         .accumulate = args.accumulate,
         .dtype = dtype_,
         .y_dtype = args.y_dtype}));
    first += part.matrix.n;
  }
  return absl::OkStatus();
}

}  // namespace paceline::worker
