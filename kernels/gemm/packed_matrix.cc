#include "kernels/gemm/packed_matrix.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/half.h"

namespace paceline::kernels {
namespace {

// GGUF's blocks of 32 columns of one row.
struct FileQ4_0 {
  uint16_t d;
  uint8_t q[16];  // column i low, column i + 16 high nibble
};
struct FileQ4_1 {
  uint16_t d;
  uint16_t m;
  uint8_t q[16];
};
struct FileQ8_0 {
  uint16_t d;
  int8_t q[32];
};
static_assert(sizeof(FileQ4_0) == 18 && sizeof(FileQ4_1) == 20 && sizeof(FileQ8_0) == 34);
static_assert(sizeof(PackedQ4_0) == 16 * sizeof(FileQ4_0));
static_assert(sizeof(PackedQ4_1) == 16 * sizeof(FileQ4_1));
static_assert(sizeof(PackedQ8_0) == 16 * sizeof(FileQ8_0));

void PackNibbles(const uint8_t* file, int64_t lane, uint8_t* packed) {
  for (int i = 0; i < 16; ++i) packed[64 * (i / 4) + 4 * lane + i % 4] = file[i];
}

// Puts one row, as the file stores it, in its lane of a packed group.
void PackRow(WeightFormat format, const uint8_t* row, int64_t k, int64_t lane, uint8_t* group) {
  const int64_t num_blocks = k / kBlockK;
  switch (format) {
    case WeightFormat::kQ4_1:
      for (int64_t b = 0; b < num_blocks; ++b) {
        FileQ4_1 file;
        std::memcpy(&file, row + b * sizeof(file), sizeof(file));
        auto& packed = reinterpret_cast<PackedQ4_1*>(group)[b];
        PackNibbles(file.q, lane, packed.q);
        packed.d[lane] = file.d;
        packed.m[lane] = file.m;
      }
      return;
    case WeightFormat::kQ4_0:
      for (int64_t b = 0; b < num_blocks; ++b) {
        FileQ4_0 file;
        std::memcpy(&file, row + b * sizeof(file), sizeof(file));
        auto& packed = reinterpret_cast<PackedQ4_0*>(group)[b];
        PackNibbles(file.q, lane, packed.q);
        packed.d[lane] = file.d;
      }
      return;
    case WeightFormat::kQ8_0:
      for (int64_t b = 0; b < num_blocks; ++b) {
        FileQ8_0 file;
        std::memcpy(&file, row + b * sizeof(file), sizeof(file));
        auto& packed = reinterpret_cast<PackedQ8_0*>(group)[b];
        for (int i = 0; i < 32; ++i) {
          packed.q[64 * (i / 4) + 4 * lane + i % 4] = static_cast<uint8_t>(file.q[i] + 128);
        }
        packed.d[lane] = file.d;
      }
      return;
    case WeightFormat::kF32:
      for (int64_t i = 0; i < k; ++i) std::memcpy(group + 4 * (16 * i + lane), row + 4 * i, 4);
      return;
    case WeightFormat::kF16:
    case WeightFormat::kBF16:
      for (int64_t i = 0; i < k; ++i) std::memcpy(group + 2 * (16 * i + lane), row + 2 * i, 2);
      return;
    case WeightFormat::kBF16Pairs:
      for (int64_t i = 0; i < k; ++i) {
        uint16_t bits;
        std::memcpy(&bits, row + 2 * i, 2);
        if ((bits & 0x7f80) == 0) bits &= 0x8000;  // subnormal
        std::memcpy(group + 2 * (16 * (i / 2 * 2) + 2 * lane + i % 2), &bits, 2);
      }
      return;
  }
}

int Nibble(const uint8_t* packed, int64_t lane, int64_t column) {
  const uint8_t byte = packed[64 * (column % 16 / 4) + 4 * lane + column % 4];
  return column < 16 ? byte & 15 : byte >> 4;
}

}  // namespace

absl::string_view WeightFormatName(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return "F32";
    case WeightFormat::kF16:
      return "F16";
    case WeightFormat::kBF16:
      return "BF16";
    case WeightFormat::kBF16Pairs:
      return "BF16_pairs";
    case WeightFormat::kQ8_0:
      return "Q8_0";
    case WeightFormat::kQ4_0:
      return "Q4_0";
    case WeightFormat::kQ4_1:
      return "Q4_1";
  }
  return "?";
}

int64_t RowBytes(WeightFormat format, int64_t k) {
  if (k <= 0) return 0;
  const int64_t blocks = k % kBlockK == 0 ? k / kBlockK : 0;
  switch (format) {
    case WeightFormat::kF32:
      return 4 * k;
    case WeightFormat::kF16:
    case WeightFormat::kBF16:
      return 2 * k;
    case WeightFormat::kBF16Pairs:
      return k % 2 == 0 ? 2 * k : 0;
    case WeightFormat::kQ8_0:
      return blocks * sizeof(FileQ8_0);
    case WeightFormat::kQ4_0:
      return blocks * sizeof(FileQ4_0);
    case WeightFormat::kQ4_1:
      return blocks * sizeof(FileQ4_1);
  }
  return 0;
}

absl::StatusOr<PackedMatrix> PackRows(ThreadPool& pool,
                                      WeightFormat format,
                                      absl::Span<const MatrixSource> sources,
                                      int64_t k) {
  const int64_t row_bytes = RowBytes(format, k);
  if (row_bytes == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("Pack: ", k, " columns do not fit format ", WeightFormatName(format)));
  }
  std::vector<const uint8_t*> rows;  // of every source, in order
  for (const MatrixSource& source : sources) {
    const int64_t stride = source.row_stride_bytes != 0 ? source.row_stride_bytes : row_bytes;
    if (source.data == nullptr || source.num_rows <= 0 || stride < row_bytes) {
      return absl::InvalidArgumentError(absl::StrCat("Pack: source [",
                                                     source.num_rows,
                                                     ", ",
                                                     k,
                                                     "] of row stride ",
                                                     stride,
                                                     " bytes, needs ",
                                                     row_bytes));
    }
    for (int64_t i = 0; i < source.num_rows; ++i) rows.push_back(source.data + i * stride);
  }
  if (rows.empty()) return absl::InvalidArgumentError("Pack: no rows");

  PackedMatrix w;
  w.format_ = format;
  w.n_ = static_cast<int64_t>(rows.size());
  w.k_ = k;
  w.group_bytes_ = kPackRows * row_bytes;
  auto buffer = AlignedBuffer::Allocate(w.num_groups() * w.group_bytes_);
  if (!buffer.ok()) return buffer.status();
  w.buffer_ = *std::move(buffer);
  pool.ForRange(w.num_groups(), 10 * k, [&](WorkRange groups) {
    for (int64_t row = groups.begin * kPackRows; row < std::min(groups.end * kPackRows, w.n_);
         ++row) {
      uint8_t* const group = w.buffer_.data() + row / kPackRows * w.group_bytes_;
      PackRow(format, rows[row], k, row % kPackRows, group);
    }
  });
  return w;
}

absl::StatusOr<PackedMatrix> Pack(
    ThreadPool& pool, WeightFormat format, const uint8_t* data, int64_t n, int64_t k) {
  const MatrixSource source{data, n, 0};
  return PackRows(pool, format, {&source, 1}, k);
}

void UnpackRow(const PackedMatrix& w, int64_t row, float* out) {
  const uint8_t* const group = w.group(row / kPackRows);
  const int64_t lane = row % kPackRows;
  for (int64_t i = 0; i < w.k(); ++i) {
    const int64_t b = i / kBlockK;
    const int64_t c = i % kBlockK;
    switch (w.format()) {
      case WeightFormat::kQ4_1: {
        const auto& block = reinterpret_cast<const PackedQ4_1*>(group)[b];
        out[i] = HalfToFloat(block.d[lane]) * static_cast<float>(Nibble(block.q, lane, c)) +
                 HalfToFloat(block.m[lane]);
        break;
      }
      case WeightFormat::kQ4_0: {
        const auto& block = reinterpret_cast<const PackedQ4_0*>(group)[b];
        out[i] = HalfToFloat(block.d[lane]) * static_cast<float>(Nibble(block.q, lane, c) - 8);
        break;
      }
      case WeightFormat::kQ8_0: {
        const auto& block = reinterpret_cast<const PackedQ8_0*>(group)[b];
        const int q = block.q[64 * (c / 4) + 4 * lane + c % 4] - 128;
        out[i] = HalfToFloat(block.d[lane]) * static_cast<float>(q);
        break;
      }
      case WeightFormat::kF32:
        std::memcpy(&out[i], group + 4 * (16 * i + lane), 4);
        break;
      case WeightFormat::kF16:
        out[i] = HalfToFloat(reinterpret_cast<const uint16_t*>(group)[16 * i + lane]);
        break;
      case WeightFormat::kBF16:
        out[i] = Bfloat16ToFloat(reinterpret_cast<const uint16_t*>(group)[16 * i + lane]);
        break;
      case WeightFormat::kBF16Pairs:
        out[i] = Bfloat16ToFloat(
            reinterpret_cast<const uint16_t*>(group)[16 * (i / 2 * 2) + 2 * lane + i % 2]);
        break;
    }
  }
}

}  // namespace paceline::kernels
