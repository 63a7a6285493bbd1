// Turns a model file's tensors into the packed form that the kernels stream. Used once at start, on
// the engine's thread; what it returns is owned by the layers.
#ifndef PACELINE_WORKER_WEIGHTS_WEIGHT_LOADER_H_
#define PACELINE_WORKER_WEIGHTS_WEIGHT_LOADER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/gemm/activations.h"
#include "kernels/gemm/packed_matrix.h"
#include "model/gguf/gguf_file.h"

namespace paceline::worker {

// Rows [begin, end) of a tensor, and of these the columns [first_column, end_column); an end < 0:
// to the last one.
struct TensorRows {
  TensorRows(std::string n, int64_t b = 0, int64_t e = -1)  // NOLINT: a name stands for all rows
      : name(std::move(n)), begin(b), end(e) {}
  TensorRows(const char* n) : TensorRows(std::string(n)) {}  // NOLINT
  std::string name;
  int64_t begin;
  int64_t end;
  int64_t first_column = 0;
  int64_t end_column = -1;
};

// Rows of one or more tensors as they are in the file, to be one matrix.
struct MatrixRows {
  kernels::WeightFormat format = kernels::WeightFormat::kF32;
  int64_t k = 0;
  int64_t row_bytes = 0;  // of k columns
  int64_t num_rows = 0;
  std::vector<kernels::MatrixSource> sources;
};

class WeightLoader {
 public:
  // Called after each tensor with the bytes loaded so far and in all.
  using Progress = std::function<void(int64_t loaded_bytes, int64_t total_bytes)>;

  WeightLoader(const model::GgufFile& file,
               kernels::ComputeType compute,
               kernels::ThreadPool& pool,
               Progress progress)
      : file_(file), compute_(compute), pool_(pool), progress_(std::move(progress)) {}

  // Rows of one or more [n_i, k] tensors with the same k and type, packed as one matrix: one
  // tensor after the other or, with `turn_rows`, by turns of so many rows, of which each tensor's
  // rows must be a multiple and all as many. NotFound names a missing tensor.
  absl::StatusOr<kernels::PackedMatrix> Matrix(absl::Span<const TensorRows> tensors,
                                               int64_t turn_rows = 0);

  // The same, not packed: views into the file.
  absl::StatusOr<MatrixRows> Sources(absl::Span<const TensorRows> tensors);

  // A tensor as float32. NotFound names a missing tensor.
  absl::StatusOr<std::vector<float>> Vector(const std::string& name);

  // Rows of a matrix: its slowest-varying size. NotFound names a missing tensor.
  absl::StatusOr<int64_t> Rows(const std::string& name) const;
  // Bytes of all matrices packed so far.
  int64_t packed_bytes() const { return packed_bytes_; }

  bool Has(const std::string& name) const { return file_.FindTensor(name) != nullptr; }
  // REQUIRES: Has(name).
  kernels::WeightFormat Format(const std::string& name) const;

 private:
  absl::StatusOr<const model::TensorInfo*> Find(const std::string& name) const;
  void Loaded(int64_t bytes);

  kernels::WeightFormat FormatOf(const model::TensorInfo& tensor) const;

  const model::GgufFile& file_;
  const kernels::ComputeType compute_;
  kernels::ThreadPool& pool_;
  Progress progress_;
  int64_t loaded_bytes_ = 0;
  int64_t packed_bytes_ = 0;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_WEIGHTS_WEIGHT_LOADER_H_
