#include "model/gguf/gguf_file.h"

#include <openssl/evp.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "model/gguf/gguf_error.h"
#include "proto/support/log.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

constexpr int64_t kDigestWindows = 16;  // per tensor, evenly spread
constexpr int64_t kDigestWindowBytes = 1024;

template <typename T>
T Load(const char* src) {
  T value;
  std::memcpy(&value, src, sizeof(T));
  return value;
}

bool IsInteger(GgufValueType type) {
  return type != GgufValueType::kFloat32 && type != GgufValueType::kFloat64 &&
         type != GgufValueType::kBool && type != GgufValueType::kString &&
         type != GgufValueType::kArray;
}

// One encoded integer; nullopt when it does not fit. REQUIRES: IsInteger(type).
std::optional<int64_t> LoadInt(GgufValueType type, const char* src) {
  switch (type) {
    case GgufValueType::kUint8:
      return Load<uint8_t>(src);
    case GgufValueType::kInt8:
      return Load<int8_t>(src);
    case GgufValueType::kUint16:
      return Load<uint16_t>(src);
    case GgufValueType::kInt16:
      return Load<int16_t>(src);
    case GgufValueType::kUint32:
      return Load<uint32_t>(src);
    case GgufValueType::kInt32:
      return Load<int32_t>(src);
    case GgufValueType::kUint64: {
      const uint64_t value = Load<uint64_t>(src);
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    default:
      return Load<int64_t>(src);
  }
}

std::string DescribeType(const GgufEntry& entry) {
  const std::string element(GgufValueTypeName(entry.element_type));
  return entry.type == GgufValueType::kArray ? "ARRAY of " + element : element;
}

absl::Status WrongType(std::string_view expected, const GgufEntry& entry) {
  return GgufError(
      "key ", QuoteGgufName(entry.key), ": expected ", expected, ", found ", DescribeType(entry));
}

// `value`, or `absent` when the key is.
template <typename T>
absl::StatusOr<T> OrDefault(absl::StatusOr<T> value, T absent) {
  if (absl::IsNotFound(value.status())) return absent;
  return value;
}

}  // namespace

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Open(path));
  const std::string_view bytes = mapped.bytes();
  std::unique_ptr<GgufFile> file(new GgufFile(bytes, std::move(mapped)));
  ASSIGN_OR_RETURN(file->header_, ParseGgufHeader(bytes));
  return file;
}

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::FromBytes(std::string_view bytes) {
  std::unique_ptr<GgufFile> file(new GgufFile(bytes, MappedFile()));
  ASSIGN_OR_RETURN(file->header_, ParseGgufHeader(bytes));
  return file;
}

const GgufEntry* GgufFile::FindEntry(std::string_view key) const {
  const auto found = header_.entry_index.find(key);
  return found == header_.entry_index.end() ? nullptr : &header_.entries[found->second];
}

absl::StatusOr<const GgufEntry*> GgufFile::GetEntry(std::string_view key) const {
  const GgufEntry* entry = FindEntry(key);
  if (entry == nullptr) {
    return absl::NotFoundError(GgufErrorText("key ", QuoteGgufName(key), " is missing"));
  }
  return entry;
}

absl::StatusOr<const GgufEntry*> GgufFile::GetArrayEntry(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufEntry* entry, GetEntry(key));
  if (entry->type != GgufValueType::kArray) return WrongType("an array", *entry);
  return entry;
}

absl::StatusOr<int64_t> GgufFile::GetInt(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufEntry* entry, GetEntry(key));
  if (!IsInteger(entry->type)) return WrongType("an integer", *entry);
  const std::optional<int64_t> value = LoadInt(entry->type, entry->bytes.data());
  if (!value.has_value()) {
    return GgufError(
        "key ", QuoteGgufName(key), ": ", Load<uint64_t>(entry->bytes.data()), " is out of range");
  }
  return *value;
}

absl::StatusOr<int64_t> GgufFile::GetIntOr(std::string_view key, int64_t absent) const {
  return OrDefault(GetInt(key), absent);
}

absl::StatusOr<double> GgufFile::GetFloat(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufEntry* entry, GetEntry(key));
  if (entry->type == GgufValueType::kFloat32) return Load<float>(entry->bytes.data());
  if (entry->type == GgufValueType::kFloat64) return Load<double>(entry->bytes.data());
  return WrongType("FLOAT32 or FLOAT64", *entry);
}

absl::StatusOr<double> GgufFile::GetFloatOr(std::string_view key, double absent) const {
  return OrDefault(GetFloat(key), absent);
}

absl::StatusOr<bool> GgufFile::GetBool(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufEntry* entry, GetEntry(key));
  if (entry->type != GgufValueType::kBool) return WrongType("BOOL", *entry);
  return entry->bytes[0] != 0;
}

absl::StatusOr<bool> GgufFile::GetBoolOr(std::string_view key, bool absent) const {
  return OrDefault(GetBool(key), absent);
}

absl::StatusOr<std::string_view> GgufFile::GetString(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufEntry* entry, GetEntry(key));
  if (entry->type != GgufValueType::kString) return WrongType("STRING", *entry);
  return entry->bytes;
}

absl::StatusOr<std::string_view> GgufFile::GetStringOr(std::string_view key,
                                                       std::string_view absent) const {
  return OrDefault(GetString(key), absent);
}

absl::StatusOr<int64_t> GgufFile::GetArraySize(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufEntry* entry, GetArrayEntry(key));
  return entry->count;
}

absl::StatusOr<std::vector<std::string_view>> GgufFile::GetStrings(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufEntry* entry, GetArrayEntry(key));
  if (entry->element_type != GgufValueType::kString) return WrongType("ARRAY of STRING", *entry);
  std::vector<std::string_view> strings;
  strings.reserve(entry->count);
  const char* next = entry->bytes.data();
  for (int64_t i = 0; i < entry->count; ++i) {
    const uint64_t size = Load<uint64_t>(next);  // checked when the header was parsed
    strings.emplace_back(next + sizeof(size), size);
    next += sizeof(size) + size;
  }
  return strings;
}

absl::StatusOr<std::vector<int32_t>> GgufFile::GetInt32s(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufEntry* entry, GetArrayEntry(key));
  if (!IsInteger(entry->element_type)) return WrongType("an array of integers", *entry);
  const int64_t stride = GgufValueBytes(entry->element_type);
  std::vector<int32_t> values(entry->count);
  for (int64_t i = 0; i < entry->count; ++i) {
    const std::optional<int64_t> value =
        LoadInt(entry->element_type, entry->bytes.data() + i * stride);
    if (!value.has_value() || *value != static_cast<int32_t>(*value)) {
      return GgufError("key ", QuoteGgufName(key), ": element ", i, " is out of range");
    }
    values[i] = static_cast<int32_t>(*value);
  }
  return values;
}

absl::StatusOr<std::vector<float>> GgufFile::GetFloats(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufEntry* entry, GetArrayEntry(key));
  if (entry->element_type != GgufValueType::kFloat32) return WrongType("ARRAY of FLOAT32", *entry);
  std::vector<float> values(entry->count);
  if (!values.empty()) std::memcpy(values.data(), entry->bytes.data(), entry->bytes.size());
  return values;
}

const TensorInfo* GgufFile::FindTensor(std::string_view name) const {
  const auto found = header_.tensor_index.find(name);
  return found == header_.tensor_index.end() ? nullptr : &header_.tensors[found->second];
}

std::string GgufFile::Digest() const {
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> sha(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  PACELINE_CHECK(sha != nullptr && EVP_DigestInit_ex(sha.get(), EVP_sha256(), nullptr) == 1,
                 "SHA-256 is not available");
  EVP_DigestUpdate(sha.get(), bytes_.data(), header_.header_bytes);
  for (const TensorInfo& tensor : tensors()) {
    if (tensor.num_bytes <= kDigestWindows * kDigestWindowBytes) {
      EVP_DigestUpdate(sha.get(), tensor.data, tensor.num_bytes);
      continue;
    }
    const int64_t last = tensor.num_bytes - kDigestWindowBytes;
    for (int64_t i = 0; i < kDigestWindows; ++i) {
      // last · i / (kDigestWindows - 1) without overflow
      const int64_t start =
          last / (kDigestWindows - 1) * i + last % (kDigestWindows - 1) * i / (kDigestWindows - 1);
      EVP_DigestUpdate(sha.get(), tensor.data + start, kDigestWindowBytes);
    }
  }
  unsigned char hash[EVP_MAX_MD_SIZE];
  PACELINE_CHECK(EVP_DigestFinal_ex(sha.get(), hash, nullptr) == 1, "SHA-256 failed");
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(hash), 16));
}

void GgufFile::GiveBackPages() const {
  if (mapped_.bytes().empty()) return;
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t start = header_.data_offset / page * page;
  if (start >= bytes_.size()) return;
  // Only a hint: read-only file pages come back from the file.
  madvise(const_cast<char*>(bytes_.data()) + start, bytes_.size() - start, MADV_DONTNEED);
}

}  // namespace paceline::model
