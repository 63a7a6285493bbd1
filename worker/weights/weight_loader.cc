#include "worker/weights/weight_loader.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/support/log.h"
#include "proto/support/status_macros.h"

namespace paceline::worker {
namespace {

// The kernels' name for a file's tensor type. A new type is a row here, in the model's table and in
// the kernels.
kernels::WeightFormat ToWeightFormat(model::TensorType type) {
  switch (type) {
    case model::TensorType::kF32:
      return kernels::WeightFormat::kF32;
    case model::TensorType::kF16:
      return kernels::WeightFormat::kF16;
    case model::TensorType::kBF16:
      return kernels::WeightFormat::kBF16;
    case model::TensorType::kQ8_0:
      return kernels::WeightFormat::kQ8_0;
    case model::TensorType::kQ4_0:
      return kernels::WeightFormat::kQ4_0;
    case model::TensorType::kQ4_1:
      return kernels::WeightFormat::kQ4_1;
  }
  PACELINE_CHECK(false, "tensor type without a weight format");
}

// The same rows, `turn_rows` of each source at a time.
absl::StatusOr<std::vector<kernels::MatrixSource>> ByTurns(
    absl::Span<const TensorRows> tensors,
    const std::vector<kernels::MatrixSource>& sources,
    int64_t row_bytes,
    int64_t turn_rows) {
  std::vector<kernels::MatrixSource> turns;
  for (size_t i = 0; i < sources.size(); ++i) {
    if (sources[i].num_rows != sources[0].num_rows || sources[i].num_rows % turn_rows != 0) {
      return absl::InvalidArgumentError(absl::StrCat("gguf: tensor '",
                                                     tensors[i].name,
                                                     "' has ",
                                                     sources[i].num_rows,
                                                     " rows, which do not go with '",
                                                     tensors[0].name,
                                                     "'"));
    }
  }
  for (int64_t row = 0; row < sources[0].num_rows; row += turn_rows) {
    for (const kernels::MatrixSource& source : sources) {
      turns.push_back({.data = source.data + row * row_bytes, .num_rows = turn_rows});
    }
  }
  return turns;
}

}  // namespace

absl::StatusOr<const model::TensorInfo*> WeightLoader::Find(const std::string& name) const {
  const model::TensorInfo* tensor = file_.FindTensor(name);
  if (tensor == nullptr) {
    return absl::NotFoundError(absl::StrCat("gguf: tensor '", name, "' is missing"));
  }
  return tensor;
}

kernels::WeightFormat WeightLoader::Format(const std::string& name) const {
  return FormatOf(*file_.FindTensor(name));
}

kernels::WeightFormat WeightLoader::FormatOf(const model::TensorInfo& tensor) const {
  const kernels::WeightFormat format = ToWeightFormat(tensor.type);
  const bool in_pairs = format == kernels::WeightFormat::kBF16 &&
                        compute_ == kernels::ComputeType::kInt8 && tensor.shape[0] % 2 == 0;
  return in_pairs ? kernels::WeightFormat::kBF16Pairs : format;
}

absl::StatusOr<int64_t> WeightLoader::Rows(const std::string& name) const {
  ASSIGN_OR_RETURN(const model::TensorInfo* tensor, Find(name));
  return tensor->shape.size() < 2 ? int64_t{1} : tensor->shape[1];
}

absl::StatusOr<MatrixRows> WeightLoader::Sources(absl::Span<const TensorRows> tensors) {
  MatrixRows rows;
  model::TensorType type{};
  for (const auto& [name, begin, rows_end, first_column, columns_end] : tensors) {
    ASSIGN_OR_RETURN(const model::TensorInfo* tensor, Find(name));
    const int64_t columns = tensor->shape.empty() ? 0 : tensor->shape[0];
    const int64_t end_column = columns_end < 0 ? columns : columns_end;
    if (tensor->shape.size() != 2 || (rows.k != 0 && end_column - first_column != rows.k)) {
      return absl::InvalidArgumentError(
          absl::StrCat("gguf: tensor '", name, "' is not a matrix of the expected width"));
    }
    if (!rows.sources.empty() && tensor->type != type) {
      return absl::InvalidArgumentError(
          absl::StrCat("gguf: tensor '", name, "' differs in type from the one it is packed with"));
    }
    rows.k = end_column - first_column;
    type = tensor->type;
    rows.format = FormatOf(*tensor);
    const int64_t end = rows_end < 0 ? tensor->shape[1] : rows_end;
    if (begin < 0 || begin >= end || end > tensor->shape[1]) {
      return absl::InvalidArgumentError(absl::StrCat(
          "gguf: tensor '", name, "' has ", tensor->shape[1], " rows, not ", begin, " to ", end));
    }
    const int64_t row_bytes = kernels::RowBytes(rows.format, columns);
    const int64_t skipped = first_column == 0 ? 0 : kernels::RowBytes(rows.format, first_column);
    rows.row_bytes = kernels::RowBytes(rows.format, rows.k);
    if (rows.row_bytes == 0 || (first_column > 0 && skipped == 0) || end_column > columns) {
      return absl::InvalidArgumentError(absl::StrCat("gguf: tensor '",
                                                     name,
                                                     "': columns ",
                                                     first_column,
                                                     " to ",
                                                     end_column,
                                                     " are not whole blocks of its ",
                                                     columns,
                                                     "; use --tensor-parallel-mode exact"));
    }
    rows.num_rows += end - begin;
    rows.sources.push_back({.data = tensor->data + begin * row_bytes + skipped,
                            .num_rows = end - begin,
                            .row_stride_bytes = rows.row_bytes == row_bytes ? 0 : row_bytes});
  }
  Loaded(rows.num_rows * rows.row_bytes);
  return rows;
}

absl::StatusOr<kernels::PackedMatrix> WeightLoader::Matrix(absl::Span<const TensorRows> tensors,
                                                           int64_t turn_rows) {
  ASSIGN_OR_RETURN(MatrixRows rows, Sources(tensors));
  if (turn_rows > 0) {
    ASSIGN_OR_RETURN(rows.sources, ByTurns(tensors, rows.sources, rows.row_bytes, turn_rows));
  }
  ASSIGN_OR_RETURN(kernels::PackedMatrix packed,
                   kernels::PackRows(pool_, rows.format, rows.sources, rows.k));
  packed_bytes_ += packed.bytes();
  return packed;
}

absl::StatusOr<std::vector<float>> WeightLoader::Vector(const std::string& name) {
  ASSIGN_OR_RETURN(const model::TensorInfo* tensor, Find(name));
  std::vector<float> values(tensor->num_elements);
  model::Dequantize(tensor->type, tensor->data, tensor->num_elements, values.data());
  Loaded(tensor->num_bytes);
  return values;
}

void WeightLoader::Loaded(int64_t bytes) {
  loaded_bytes_ += bytes;
  if (progress_) progress_(loaded_bytes_, file_.file_bytes());
}

}  // namespace paceline::worker
