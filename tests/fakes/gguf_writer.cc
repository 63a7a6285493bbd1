#include "tests/fakes/gguf_writer.h"

#include <cerrno>
#include <fstream>

#include "proto/support/log.h"

namespace paceline::model {
namespace {

uint64_t AlignUp(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

// An array's element type and count, to be followed by the elements.
std::string ArrayHeader(GgufValueType element_type, uint64_t count) {
  std::string bytes;
  AppendRaw(bytes, static_cast<uint32_t>(element_type));
  AppendRaw(bytes, count);
  return bytes;
}

constexpr uint32_t Id(GgufValueType type) { return static_cast<uint32_t>(type); }

}  // namespace

std::string EncodeGgufString(std::string_view text) {
  std::string bytes;
  AppendRaw(bytes, static_cast<uint64_t>(text.size()));
  return bytes.append(text);
}

GgufWriter& GgufWriter::AddRaw(std::string_view key, uint32_t type_id, std::string_view bytes) {
  std::string entry = EncodeGgufString(key);
  AppendRaw(entry, type_id);
  entries_.push_back({std::string(key), entry.append(bytes)});
  return *this;
}

GgufWriter& GgufWriter::AddRawEntry(std::string_view bytes) {
  entries_.push_back({"", std::string(bytes)});
  return *this;
}

GgufWriter& GgufWriter::AddUint32(std::string_view key, uint32_t value) {
  std::string bytes;
  AppendRaw(bytes, value);
  return AddRaw(key, Id(GgufValueType::kUint32), bytes);
}

GgufWriter& GgufWriter::AddFloat(std::string_view key, float value) {
  std::string bytes;
  AppendRaw(bytes, value);
  return AddRaw(key, Id(GgufValueType::kFloat32), bytes);
}

GgufWriter& GgufWriter::AddBool(std::string_view key, bool value) {
  return AddRaw(key, Id(GgufValueType::kBool), std::string(1, value ? '\1' : '\0'));
}

GgufWriter& GgufWriter::AddString(std::string_view key, std::string_view value) {
  return AddRaw(key, Id(GgufValueType::kString), EncodeGgufString(value));
}

GgufWriter& GgufWriter::AddStrings(std::string_view key, absl::Span<const std::string> values) {
  std::string bytes = ArrayHeader(GgufValueType::kString, values.size());
  for (const std::string& value : values) bytes.append(EncodeGgufString(value));
  return AddRaw(key, Id(GgufValueType::kArray), bytes);
}

GgufWriter& GgufWriter::AddInt32s(std::string_view key, absl::Span<const int32_t> values) {
  std::string bytes = ArrayHeader(GgufValueType::kInt32, values.size());
  for (const int32_t value : values) AppendRaw(bytes, value);
  return AddRaw(key, Id(GgufValueType::kArray), bytes);
}

GgufWriter& GgufWriter::AddFloats(std::string_view key, absl::Span<const float> values) {
  std::string bytes = ArrayHeader(GgufValueType::kFloat32, values.size());
  for (const float value : values) AppendRaw(bytes, value);
  return AddRaw(key, Id(GgufValueType::kArray), bytes);
}

GgufWriter& GgufWriter::RemoveKey(std::string_view key) {
  std::erase_if(entries_, [&](const Entry& entry) { return entry.key == key; });
  return *this;
}

GgufWriter& GgufWriter::AddTensor(std::string_view name,
                                  TensorType type,
                                  std::vector<int64_t> shape,
                                  std::string data) {
  return AddRawTensor({std::string(name),
                       static_cast<uint32_t>(type),
                       std::move(shape),
                       std::move(data),
                       std::nullopt,
                       std::nullopt});
}

GgufWriter& GgufWriter::AddZeroTensor(std::string_view name,
                                      TensorType type,
                                      std::vector<int64_t> shape) {
  int64_t num_elements = 1;
  for (const int64_t size : shape) num_elements *= size;
  const std::optional<int64_t> bytes = TensorBytes(type, num_elements);
  PACELINE_CHECK(bytes.has_value(), "fake tensor is not whole blocks");
  return AddTensor(name, type, std::move(shape), std::string(*bytes, '\0'));
}

GgufWriter& GgufWriter::AddRawTensor(Tensor tensor) {
  tensors_.push_back(std::move(tensor));
  return *this;
}

GgufWriter& GgufWriter::RemoveTensor(std::string_view name) {
  std::erase_if(tensors_, [&](const Tensor& tensor) { return tensor.name == name; });
  return *this;
}

GgufWriter& GgufWriter::SetMagic(uint32_t magic) {
  magic_ = magic;
  return *this;
}

GgufWriter& GgufWriter::SetVersion(uint32_t version) {
  version_ = version;
  return *this;
}

GgufWriter& GgufWriter::SetNumTensors(uint64_t count) {
  num_tensors_ = count;
  return *this;
}

GgufWriter& GgufWriter::SetNumEntries(uint64_t count) {
  num_entries_ = count;
  return *this;
}

GgufWriter& GgufWriter::SetAlignment(uint32_t alignment) {
  PACELINE_CHECK(alignment > 0, "alignment 0: write the key with AddUint32 instead");
  alignment_ = alignment;
  return AddUint32("general.alignment", alignment);
}

std::string GgufWriter::Header() const {
  std::string out;
  AppendRaw(out, magic_);
  AppendRaw(out, version_);
  AppendRaw(out, num_tensors_.value_or(tensors_.size()));
  AppendRaw(out, num_entries_.value_or(entries_.size()));
  for (const Entry& entry : entries_) out.append(entry.bytes);
  uint64_t offset = 0;
  for (const Tensor& tensor : tensors_) {
    out.append(EncodeGgufString(tensor.name));
    AppendRaw(out, tensor.num_dims.value_or(static_cast<uint32_t>(tensor.shape.size())));
    for (const int64_t size : tensor.shape) AppendRaw(out, size);
    AppendRaw(out, tensor.type_id);
    AppendRaw(out, tensor.offset.value_or(offset));
    offset = AlignUp(offset + tensor.data.size(), alignment_);
  }
  return out;
}

std::string GgufWriter::Bytes() const {
  std::string out = Header();
  for (const Tensor& tensor : tensors_) {
    out.resize(AlignUp(out.size(), alignment_));
    out.append(tensor.data);
  }
  return out;
}

absl::Status GgufWriter::WriteTo(const std::string& path) const {
  const std::string bytes = Bytes();
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  if (!out) return absl::ErrnoToStatus(errno, "cannot write " + path);
  return absl::OkStatus();
}

}  // namespace paceline::model
