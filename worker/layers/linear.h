// A linear layer over one input: y = x W^T (+ b), where W's rows may come from several tensors (q,
// k, v or gate, up). Owned by its layer; engine thread only.
#ifndef PACELINE_WORKER_LAYERS_LINEAR_H_
#define PACELINE_WORKER_LAYERS_LINEAR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/gemm/activations.h"
#include "kernels/gemm/matmul.h"
#include "kernels/gemm/packed_matrix.h"
#include "kernels/tensor_view.h"
#include "worker/layers/forward.h"
#include "worker/weights/weight_loader.h"

namespace paceline::worker {

class Linear {
 public:
  // Loads these rows (and columns) of "<name>.weight" of each and, where the file has one, of
  // "<name>.bias"; of parts that are cut by columns and added up, the first one has it.
  static absl::StatusOr<Linear> Load(WeightLoader& loader,
                                     absl::Span<const TensorRows> layers,
                                     kernels::ComputeType compute);

  int64_t input_size() const { return k_; }
  int64_t output_size() const { return n_; }
  // The form in which Forward takes its input.
  kernels::ActivationForm form() const { return form_; }
  // The table behind a layer of one tensor: an output head may serve as embedding. REQUIRES: one
  // name.
  const kernels::PackedMatrix& matrix() const { return parts_[0]; }

  // y += the sum over the tensor group of x W^T + b, each rank having its own columns of W: `first`
  // adds what there was, and y becomes the sum on all. `y` is the same on all before.
  absl::Status ForwardSum(
      const ForwardContext& context,
      const kernels::Activations& x,
      bool first,                              // rank 0
      const kernels::MutableMatrix& y) const;  // [m, output_size], adjacent rows

  // y (+)= x W^T + b.
  absl::Status Forward(const ForwardContext& context,
                       const kernels::Activations& x,           // [m, input_size]
                       bool accumulate,                         // add to y, not overwrite
                       const kernels::MutableMatrix& y) const;  // [m, output_size] f32

 private:
  int64_t k_ = 0;
  int64_t n_ = 0;
  kernels::ActivationForm form_ = kernels::ActivationForm::kFloat32;
  std::vector<kernels::PackedMatrix> parts_;  // adjacent ranges of outputs
  std::vector<float> bias_;                   // [n] or empty
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_LAYERS_LINEAR_H_
