#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/embedding/embed.h"

namespace paceline::kernels {
namespace {

absl::Status CheckIds(absl::string_view op,
                      absl::Span<const int32_t> ids,
                      int64_t table_rows,
                      int64_t table_cols,
                      const MutableMatrix& out) {
  if (auto status = CheckView(op, "out", out); !status.ok()) return status;
  if (out.rows != static_cast<int64_t>(ids.size()) || out.cols != table_cols) {
    return absl::InvalidArgumentError(absl::StrCat(op,
                                                   ": out ",
                                                   ShapeString(out),
                                                   " does not fit ",
                                                   ids.size(),
                                                   " rows of [",
                                                   table_rows,
                                                   ", ",
                                                   table_cols,
                                                   "]"));
  }
  for (int32_t id : ids) {
    if (id < 0 || id >= table_rows) {
      return absl::InvalidArgumentError(
          absl::StrCat(op, ": row ", id, " of [", table_rows, ", ", table_cols, "]"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Embed(ThreadPool& pool,
                   const PackedMatrix& table,
                   absl::Span<const int32_t> ids,
                   const MutableMatrix& out) {
  if (auto status = CheckIds("Embed", ids, table.n(), table.k(), out); !status.ok()) return status;
  pool.ForRange(out.rows, table.k(), [&](WorkRange rows) {
    for (int64_t i = rows.begin; i < rows.end; ++i) UnpackRow(table, ids[i], out.row(i));
  });
  return absl::OkStatus();
}

absl::Status GatherRows(ThreadPool& pool,
                        const Matrix& x,
                        absl::Span<const int32_t> rows,
                        const MutableMatrix& out) {
  if (auto status = CheckView("GatherRows", "x", x); !status.ok()) return status;
  if (auto status = CheckIds("GatherRows", rows, x.rows, x.cols, out); !status.ok()) return status;
  pool.ForRange(out.rows, x.cols / 16, [&](WorkRange range) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      std::memcpy(out.row(i), x.row(rows[i]), x.cols * sizeof(float));
    }
  });
  return absl::OkStatus();
}

}  // namespace paceline::kernels
