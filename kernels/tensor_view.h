// Typed, non-owning 2-D views and the shape errors that kernels return. Plain values: copy freely;
// the memory they point at belongs to the caller. Stateless; any thread.
#ifndef PACELINE_KERNELS_TENSOR_VIEW_H_
#define PACELINE_KERNELS_TENSOR_VIEW_H_

#include <cstdint>
#include <string>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace paceline::kernels {

enum class DType { kF32, kF16, kBF16, kI8, kE4M3, kI32 };

// Bytes of one element.
constexpr int64_t DTypeSize(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
      return 2;
    case DType::kI8:
    case DType::kE4M3:
      return 1;
  }
  return 0;
}

// `rows` x `cols` elements of T; row i starts at data + i * row_stride (in elements).
template <typename T>
struct MatrixView {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;

  MatrixView() = default;
  MatrixView(T* data, int64_t rows, int64_t cols) : MatrixView(data, rows, cols, cols) {}
  MatrixView(T* data, int64_t rows, int64_t cols, int64_t row_stride)
      : data(data), rows(rows), cols(cols), row_stride(row_stride) {}

  T* row(int64_t i) const { return data + i * row_stride; }
  // Columns [first, first + count) of every row. REQUIRES: 0 <= first, first + count <= cols.
  MatrixView Columns(int64_t first, int64_t count) const {
    return MatrixView(data + first, rows, count, row_stride);
  }
  // Rows [first, first + count). REQUIRES: 0 <= first, first + count <= rows.
  MatrixView Rows(int64_t first, int64_t count) const {
    return MatrixView(data + first * row_stride, count, cols, row_stride);
  }
  // A mutable view converts to a read-only one.
  operator MatrixView<const T>() const  // NOLINT(google-explicit-constructor)
      requires(!std::is_const_v<T>) {
    return MatrixView<const T>(data, rows, cols, row_stride);
  }
};

using Matrix = MatrixView<const float>;
using MutableMatrix = MatrixView<float>;

// "[rows, cols]"
template <typename T>
std::string ShapeString(const MatrixView<T>& m) {
  return absl::StrCat("[", m.rows, ", ", m.cols, "]");
}

// InvalidArgument: "<op>: <a_name> [r, c] does not fit <b_name> [r, c]".
template <typename A, typename B>
absl::Status ShapeMismatch(absl::string_view op,
                           absl::string_view a_name,
                           const A& a,
                           absl::string_view b_name,
                           const B& b) {
  return absl::InvalidArgumentError(absl::StrCat(
      op, ": ", a_name, " ", ShapeString(a), " does not fit ", b_name, " ", ShapeString(b)));
}

// OK when the view is usable: data present (unless empty), sizes >= 0, row_stride >= cols.
template <typename T>
absl::Status CheckView(absl::string_view op, absl::string_view name, const MatrixView<T>& m) {
  if (m.rows < 0 || m.cols < 0 || (m.rows > 1 && m.row_stride < m.cols) ||
      (m.data == nullptr && m.rows * m.cols != 0)) {
    return absl::InvalidArgumentError(absl::StrCat(
        op, ": ", name, " ", ShapeString(m), " has no data or row stride ", m.row_stride));
  }
  return absl::OkStatus();
}

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_TENSOR_VIEW_H_
