#include "kernels/gemm/device_matrix.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/half.h"

namespace paceline::kernels {
namespace {

constexpr int64_t kGroupRows = 16;
constexpr int64_t kLanes = 32;

// Where a lane has an element of a block.
struct Place {
  Place(int64_t row, int64_t column)
      : lane(row % 8 * 4 + column / 8),
        half(column % 8 / 4),
        reg(column % 4 / 2 * 2 + row / 8),
        element(column % 2) {}
  int64_t nibble_bit() const { return 4 * reg + 16 * element; }

  int64_t lane;
  int64_t half;
  int64_t reg;  // of four
  int64_t element;
};

uint16_t Load16(const uint8_t* p) {
  uint16_t value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}

// A column of an unquantised row, rounded to the type.
uint16_t Rounded(WeightFormat format, const uint8_t* row, int64_t column, DType dtype) {
  if (format == WeightFormat::kF32) {
    float value;
    std::memcpy(&value, row + 4 * column, sizeof(value));
    return dtype == DType::kF16 ? FloatToHalf(value) : FloatToBfloat16(value);
  }
  const uint16_t bits = Load16(row + 2 * column);
  const bool is_half = format == WeightFormat::kF16;
  if (is_half == (dtype == DType::kF16)) return bits;
  return is_half ? FloatToBfloat16(HalfToFloat(bits)) : FloatToHalf(Bfloat16ToFloat(bits));
}

class Packer {
 public:
  Packer(WeightFormat format, int64_t n, int64_t k, DType dtype)
      : source_(format), dtype_(dtype), num_blocks_(k / kBlockK) {
    packed_.format = Format();
    packed_.n = static_cast<int32_t>(n);
    packed_.k = static_cast<int32_t>(k);
    const int64_t blocks = (n + kGroupRows - 1) / kGroupRows * num_blocks_;
    const bool q4 = packed_.format == DeviceFormat::kQ4;
    const bool q8 = packed_.format == DeviceFormat::kQ8;
    packed_.values.resize(blocks * kLanes * (q4 ? 8 : q8 ? 16 : 32));
    packed_.scales.resize(blocks * kGroupRows * (q4 ? 2 : q8 ? 1 : 0));
  }

  void AddRow(int64_t n, const uint8_t* row) {
    for (int64_t block = 0; block < num_blocks_; ++block) {
      const int64_t at = n / kGroupRows * num_blocks_ + block;
      switch (packed_.format) {
        case DeviceFormat::kQ4:
          AddQ4(at, n % kGroupRows, row, block);
          break;
        case DeviceFormat::kQ8:
          AddQ8(at, n % kGroupRows, row + block * 34);
          break;
        case DeviceFormat::kBF16:
        case DeviceFormat::kF16:
          AddHalves(at, n % kGroupRows, row, block);
      }
    }
  }

  PackedDeviceMatrix Take() { return std::move(packed_); }

 private:
  DeviceFormat Format() const {
    switch (source_) {
      case WeightFormat::kQ4_0:
      case WeightFormat::kQ4_1:
        return DeviceFormat::kQ4;
      case WeightFormat::kQ8_0:
        return DeviceFormat::kQ8;
      default:
        return dtype_ == DType::kBF16 ? DeviceFormat::kBF16 : DeviceFormat::kF16;
    }
  }

  // Ors a nibble into the 32-bit word.
  void SetNibble(int64_t word, int64_t bit, uint32_t nibble) {
    packed_.values[4 * word + bit / 8] |= static_cast<uint8_t>(nibble << bit % 8);
  }

  void AddQ4(int64_t at, int64_t row_of_group, const uint8_t* row, int64_t block) {
    const bool has_min = source_ == WeightFormat::kQ4_1;
    const uint8_t* const file = row + block * (has_min ? 20 : 18);
    const uint8_t* const nibbles = file + (has_min ? 4 : 2);
    uint16_t* const scales = &packed_.scales[(at * kGroupRows + row_of_group) * 2];
    scales[0] = Load16(file);
    scales[1] = has_min ? Load16(file + 2) : FloatToHalf(-8 * HalfToFloat(scales[0]));
    for (int64_t column = 0; column < kBlockK; ++column) {
      const Place place(row_of_group, column);
      const uint8_t byte = nibbles[column % 16];
      SetNibble((at * kLanes + place.lane) * 2 + place.half,
                place.nibble_bit(),
                column < 16 ? byte & 15 : byte >> 4);
    }
  }

  void AddQ8(int64_t at, int64_t row_of_group, const uint8_t* file) {
    packed_.scales[at * kGroupRows + row_of_group] = Load16(file);
    for (int64_t column = 0; column < kBlockK; ++column) {
      const Place place(row_of_group, column);
      const uint32_t byte = (file[2 + column] + 128) & 255;
      const int64_t word = (at * kLanes + place.lane) * 4 + 2 * place.half;
      SetNibble(word, place.nibble_bit(), byte & 15);
      SetNibble(word + 1, place.nibble_bit(), byte >> 4);
    }
  }

  void AddHalves(int64_t at, int64_t row_of_group, const uint8_t* row, int64_t block) {
    for (int64_t column = 0; column < kBlockK; ++column) {
      const Place place(row_of_group, column);
      const uint16_t bits = Rounded(source_, row, block * kBlockK + column, dtype_);
      const int64_t to =
          ((at * 2 + place.half) * kLanes + place.lane) * 8 + 2 * place.reg + place.element;
      std::memcpy(&packed_.values[2 * to], &bits, sizeof(bits));
    }
  }

  const WeightFormat source_;
  const DType dtype_;
  const int64_t num_blocks_;
  PackedDeviceMatrix packed_;
};

}  // namespace

absl::StatusOr<PackedDeviceMatrix> PackForDevice(WeightFormat format,
                                                 absl::Span<const MatrixSource> sources,
                                                 int64_t k,
                                                 DType dtype) {
  int64_t n = 0;
  for (const MatrixSource& source : sources) n += source.num_rows;
  if (n <= 0 || k <= 0 || k % kBlockK != 0 || (dtype != DType::kBF16 && dtype != DType::kF16)) {
    return absl::InvalidArgumentError(absl::StrCat("PackForDevice: ",
                                                   WeightFormatName(format),
                                                   " w[n, k] [",
                                                   n,
                                                   ", ",
                                                   k,
                                                   "] for bf16 or f16: k comes in blocks of 32"));
  }
  Packer packer(format, n, k, dtype);
  const int64_t row_bytes = RowBytes(format, k);
  int64_t row = 0;
  for (const MatrixSource& source : sources) {
    const int64_t stride = source.row_stride_bytes == 0 ? row_bytes : source.row_stride_bytes;
    for (int64_t i = 0; i < source.num_rows; ++i) packer.AddRow(row++, source.data + i * stride);
  }
  return packer.Take();
}

}  // namespace paceline::kernels
