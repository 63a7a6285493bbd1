#include "model/gguf/gguf_header.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "model/gguf/gguf_error.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF numbers are read as they lie");

constexpr std::string_view kAlignmentKey = "general.alignment";
constexpr int64_t kDefaultAlignment = 32;
constexpr uint32_t kMaxDims = 4;
// Smallest encodings, which bound the counts: key length, key, type, value; and name length, name,
// dimension count, one dimension, type, offset.
constexpr uint64_t kMinEntryBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

// Takes numbers and strings off the front of a buffer, never past its end.
class Cursor {
 public:
  explicit Cursor(std::string_view file) : rest_(file), file_bytes_(file.size()) {}

  size_t remaining() const { return rest_.size(); }
  size_t position() const { return file_bytes_ - rest_.size(); }

  template <typename T>
  absl::Status Read(std::string_view what, T* value) {
    if (rest_.size() < sizeof(T)) return EndsInside(what);
    std::memcpy(value, rest_.data(), sizeof(T));
    rest_.remove_prefix(sizeof(T));
    return absl::OkStatus();
  }

  absl::StatusOr<std::string_view> ReadBytes(std::string_view what, uint64_t size) {
    if (size > rest_.size()) return EndsInside(what);
    const std::string_view bytes = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return bytes;
  }

  // A string with its length in front; longer than `max_bytes` is an error.
  absl::StatusOr<std::string_view> ReadString(std::string_view what, uint64_t max_bytes) {
    uint64_t size = 0;
    RETURN_IF_ERROR(Read(what, &size));
    if (size > max_bytes) {
      return GgufError(what, ": length ", size, " is over the limit of ", max_bytes);
    }
    if (size > rest_.size()) {
      return GgufError(what, ": length ", size, " is past the end of the file");
    }
    return ReadBytes(what, size);
  }

 private:
  static absl::Status EndsInside(std::string_view what) {
    return GgufError(what, ": the file ends here; it is cut short or damaged");
  }

  std::string_view rest_;
  size_t file_bytes_;
};

bool IsValueType(uint32_t id) { return id <= static_cast<uint32_t>(GgufValueType::kFloat64); }

// Steps over the elements of an array and sets `entry`'s element_type, count and bytes.
absl::Status ReadArray(Cursor& cursor, const std::string& what, GgufEntry& entry) {
  uint32_t type_id = 0;
  uint64_t count = 0;
  RETURN_IF_ERROR(cursor.Read(what, &type_id));
  RETURN_IF_ERROR(cursor.Read(what, &count));
  if (!IsValueType(type_id)) return GgufError(what, ": unknown array element type ", type_id);
  entry.element_type = static_cast<GgufValueType>(type_id);
  if (entry.element_type == GgufValueType::kArray) {
    return GgufError(what, ": arrays of arrays are not supported");
  }
  const bool strings = entry.element_type == GgufValueType::kString;
  const uint64_t min_element_bytes =
      strings ? sizeof(uint64_t) : GgufValueBytes(entry.element_type);
  if (count > cursor.remaining() / min_element_bytes) {
    return GgufError(what, ": array of ", count, " elements is past the end of the file");
  }
  entry.count = static_cast<int64_t>(count);
  if (!strings) {
    ASSIGN_OR_RETURN(entry.bytes, cursor.ReadBytes(what, count * min_element_bytes));
    return absl::OkStatus();
  }
  Cursor elements = cursor;
  for (uint64_t i = 0; i < count; ++i) {
    RETURN_IF_ERROR(elements.ReadString(what, UINT64_MAX).status());
  }
  ASSIGN_OR_RETURN(entry.bytes, cursor.ReadBytes(what, elements.position() - cursor.position()));
  return absl::OkStatus();
}

absl::StatusOr<GgufEntry> ReadEntry(Cursor& cursor, uint64_t index) {
  GgufEntry entry{};
  const std::string place = absl::StrCat("metadata key ", index);
  ASSIGN_OR_RETURN(entry.key, cursor.ReadString(place, kMaxGgufKeyBytes));
  if (entry.key.empty()) return GgufError(place, ": the key is empty");
  const std::string what = absl::StrCat("key ", QuoteGgufName(entry.key));
  uint32_t type_id = 0;
  RETURN_IF_ERROR(cursor.Read(what, &type_id));
  if (!IsValueType(type_id)) return GgufError(what, ": unknown value type ", type_id);
  entry.type = static_cast<GgufValueType>(type_id);
  if (entry.type == GgufValueType::kArray) {
    RETURN_IF_ERROR(ReadArray(cursor, what, entry));
    return entry;
  }
  entry.element_type = entry.type;
  entry.count = 1;
  if (entry.type == GgufValueType::kString) {
    ASSIGN_OR_RETURN(entry.bytes, cursor.ReadString(what, UINT64_MAX));
    return entry;
  }
  ASSIGN_OR_RETURN(entry.bytes, cursor.ReadBytes(what, GgufValueBytes(entry.type)));
  if (entry.type == GgufValueType::kBool && static_cast<uint8_t>(entry.bytes[0]) > 1) {
    return GgufError(what, ": a BOOL of value ", static_cast<uint8_t>(entry.bytes[0]));
  }
  return entry;
}

absl::StatusOr<int64_t> FindAlignment(const GgufHeader& header) {
  const auto found = header.entry_index.find(kAlignmentKey);
  if (found == header.entry_index.end()) return kDefaultAlignment;
  const GgufEntry& entry = header.entries[found->second];
  if (entry.type != GgufValueType::kUint32) {
    return GgufError(
        "key '", kAlignmentKey, "': expected UINT32, found ", GgufValueTypeName(entry.type));
  }
  uint32_t alignment = 0;
  std::memcpy(&alignment, entry.bytes.data(), sizeof(alignment));
  if (!std::has_single_bit(alignment) || alignment < 8 || alignment > kMaxGgufAlignment) {
    return GgufError("key '",
                     kAlignmentKey,
                     "': ",
                     alignment,
                     " is not a power of two from 8 to ",
                     kMaxGgufAlignment);
  }
  return alignment;
}

// A tensor and its offset from the start of the data area, not yet compared with the file's size.
struct TensorRecord {
  TensorInfo info;
  uint64_t offset;
};

absl::StatusOr<TensorRecord> ReadTensorRecord(Cursor& cursor, uint64_t index) {
  TensorRecord record{};
  TensorInfo& info = record.info;
  const std::string place = absl::StrCat("tensor ", index, " name");
  ASSIGN_OR_RETURN(info.name, cursor.ReadString(place, kMaxGgufTensorNameBytes));
  if (info.name.empty()) return GgufError(place, ": it is empty");
  const std::string what = absl::StrCat("tensor ", QuoteGgufName(info.name));

  uint32_t num_dims = 0;
  RETURN_IF_ERROR(cursor.Read(what, &num_dims));
  if (num_dims < 1 || num_dims > kMaxDims) {
    return GgufError(what, ": ", num_dims, " dimensions; expected 1 to ", kMaxDims);
  }
  info.num_elements = 1;
  for (uint32_t i = 0; i < num_dims; ++i) {
    int64_t size = 0;
    RETURN_IF_ERROR(cursor.Read(what, &size));
    if (size <= 0) return GgufError(what, ": dimension ", i, " is ", size);
    if (__builtin_mul_overflow(info.num_elements, size, &info.num_elements)) {
      return GgufError(what, ": the product of its dimensions overflows");
    }
    info.shape.push_back(size);
  }

  uint32_t type_id = 0;
  RETURN_IF_ERROR(cursor.Read(what, &type_id));
  const TensorTypeInfo* type = FindTensorType(type_id);
  if (type == nullptr) {
    std::string supported;
    for (const TensorTypeInfo& row : TensorTypes()) supported.append(" ").append(row.name);
    return GgufUnsupported(
        what, ": type ", DescribeTensorTypeId(type_id), " is not supported; supported:", supported);
  }
  info.type = type->type;
  if (info.shape[0] % type->block_size != 0) {
    return GgufError(what,
                     ": rows of ",
                     info.shape[0],
                     " elements are not whole ",
                     type->name,
                     " blocks of ",
                     type->block_size);
  }
  const std::optional<int64_t> num_bytes = TensorBytes(info.type, info.num_elements);
  if (!num_bytes.has_value()) return GgufError(what, ": its size in bytes overflows");
  info.num_bytes = *num_bytes;
  RETURN_IF_ERROR(cursor.Read(what, &record.offset));
  return record;
}

// Fills in `data` of every tensor. REQUIRES: header.data_offset <= file.size().
absl::Status PlaceTensors(std::string_view file,
                          int64_t alignment,
                          const std::vector<uint64_t>& offsets,
                          GgufHeader& header) {
  const uint64_t data_bytes = file.size() - header.data_offset;
  std::vector<uint32_t> order(offsets.size());
  for (size_t i = 0; i < offsets.size(); ++i) {
    TensorInfo& info = header.tensors[i];
    const uint64_t num_bytes = static_cast<uint64_t>(info.num_bytes);
    if (offsets[i] % static_cast<uint64_t>(alignment) != 0) {
      return GgufError("tensor ",
                       QuoteGgufName(info.name),
                       ": offset ",
                       offsets[i],
                       " is not a multiple of the alignment ",
                       alignment);
    }
    if (offsets[i] > data_bytes || num_bytes > data_bytes - offsets[i]) {
      return GgufError("tensor ",
                       QuoteGgufName(info.name),
                       ": offset ",
                       offsets[i],
                       " and ",
                       num_bytes,
                       " bytes are past the end of the file, which has ",
                       data_bytes,
                       " bytes of tensor data; it is cut short or damaged");
    }
    info.data = reinterpret_cast<const uint8_t*>(file.data()) + header.data_offset + offsets[i];
    order[i] = static_cast<uint32_t>(i);
  }
  std::sort(
      order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return offsets[a] < offsets[b]; });
  for (size_t i = 1; i < order.size(); ++i) {
    const TensorInfo& before = header.tensors[order[i - 1]];
    const TensorInfo& after = header.tensors[order[i]];
    if (after.data < before.data + before.num_bytes) {
      return GgufError("tensor ",
                       QuoteGgufName(after.name),
                       ": offset ",
                       offsets[order[i]],
                       " overlaps tensor ",
                       QuoteGgufName(before.name));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckCount(
    std::string_view what, uint64_t count, uint64_t limit, uint64_t min_bytes, size_t remaining) {
  if (count > limit) return GgufError(what, " ", count, " is over the limit of ", limit);
  if (count > remaining / min_bytes) {
    return GgufError(what, " ", count, " is more than the rest of the file can hold");
  }
  return absl::OkStatus();
}

// Magic, version and the two counts.
absl::Status ReadPreamble(Cursor& cursor,
                          uint32_t& version,
                          uint64_t& num_tensors,
                          uint64_t& num_entries) {
  if (cursor.remaining() == 0) return GgufError("the file is empty");
  uint32_t magic = 0;
  RETURN_IF_ERROR(cursor.Read("magic", &magic));
  if (magic != 0x46554747u) return GgufError("magic: not a GGUF file");  // "GGUF"
  RETURN_IF_ERROR(cursor.Read("version", &version));
  if (version == 0x02000000u || version == 0x03000000u) {
    return GgufUnsupported("version: big-endian files are not supported");
  }
  if (version == 1) {
    return GgufUnsupported("version: 1 is not supported, only 2 and 3; convert the model again");
  }
  if (version != 2 && version != 3) return GgufError("version: ", version, " is not 2 or 3");
  RETURN_IF_ERROR(cursor.Read("tensor count", &num_tensors));
  RETURN_IF_ERROR(cursor.Read("metadata count", &num_entries));
  RETURN_IF_ERROR(CheckCount(
      "metadata count", num_entries, kMaxGgufEntries, kMinEntryBytes, cursor.remaining()));
  return CheckCount(
      "tensor count", num_tensors, kMaxGgufTensors, kMinTensorBytes, cursor.remaining());
}

}  // namespace

absl::StatusOr<GgufHeader> ParseGgufHeader(std::string_view file) {
  GgufHeader header;
  Cursor cursor(file);
  uint64_t num_tensors = 0;
  uint64_t num_entries = 0;
  RETURN_IF_ERROR(ReadPreamble(cursor, header.version, num_tensors, num_entries));

  header.entries.reserve(num_entries);
  for (uint64_t i = 0; i < num_entries; ++i) {
    ASSIGN_OR_RETURN(const GgufEntry entry, ReadEntry(cursor, i));
    if (!header.entry_index.emplace(entry.key, i).second) {
      return GgufError("key ", QuoteGgufName(entry.key), ": it appears twice");
    }
    header.entries.push_back(entry);
  }
  ASSIGN_OR_RETURN(const int64_t alignment, FindAlignment(header));

  // The counts were bounded by the whole file; now by what is left of it.
  RETURN_IF_ERROR(CheckCount(
      "tensor count", num_tensors, kMaxGgufTensors, kMinTensorBytes, cursor.remaining()));
  header.tensors.reserve(num_tensors);
  std::vector<uint64_t> offsets;
  offsets.reserve(num_tensors);
  for (uint64_t i = 0; i < num_tensors; ++i) {
    ASSIGN_OR_RETURN(TensorRecord record, ReadTensorRecord(cursor, i));
    if (!header.tensor_index.emplace(record.info.name, i).second) {
      return GgufError("tensor ", QuoteGgufName(record.info.name), ": the name appears twice");
    }
    offsets.push_back(record.offset);
    header.tensors.push_back(std::move(record.info));
  }

  header.header_bytes = cursor.position();
  const size_t padding = -header.header_bytes & static_cast<size_t>(alignment - 1);
  header.data_offset = header.header_bytes + std::min(padding, cursor.remaining());
  RETURN_IF_ERROR(PlaceTensors(file, alignment, offsets, header));
  return header;
}

std::string QuoteGgufName(std::string_view name) {
  constexpr size_t kMaxShown = 96;
  const bool cut = name.size() > kMaxShown;
  const absl::string_view shown(name.data(), cut ? kMaxShown : name.size());
  return absl::StrCat("'", absl::Utf8SafeCHexEscape(shown), cut ? "…'" : "'");
}

int64_t GgufValueBytes(GgufValueType type) {
  switch (type) {
    case GgufValueType::kUint8:
    case GgufValueType::kInt8:
    case GgufValueType::kBool:
      return 1;
    case GgufValueType::kUint16:
    case GgufValueType::kInt16:
      return 2;
    case GgufValueType::kUint32:
    case GgufValueType::kInt32:
    case GgufValueType::kFloat32:
      return 4;
    case GgufValueType::kUint64:
    case GgufValueType::kInt64:
    case GgufValueType::kFloat64:
      return 8;
    case GgufValueType::kString:
    case GgufValueType::kArray:
      break;
  }
  return 0;
}

std::string_view GgufValueTypeName(GgufValueType type) {
  static constexpr std::string_view kNames[] = {"UINT8",
                                                "INT8",
                                                "UINT16",
                                                "INT16",
                                                "UINT32",
                                                "INT32",
                                                "FLOAT32",
                                                "BOOL",
                                                "STRING",
                                                "ARRAY",
                                                "UINT64",
                                                "INT64",
                                                "FLOAT64"};
  return kNames[static_cast<uint32_t>(type)];
}

}  // namespace paceline::model
