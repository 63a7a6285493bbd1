// Writes GGUF files for tests: sound ones by default, and hostile ones through the raw and override
// calls. Owned by the test; not thread-safe.
//
//   const std::string bytes = GgufWriter().AddString("general.architecture", "llama").Bytes();
//   ASSERT_TRUE(GgufFile::FromBytes(bytes).ok());
#ifndef PACELINE_TESTS_FAKES_GGUF_WRITER_H_
#define PACELINE_TESTS_FAKES_GGUF_WRITER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "model/gguf/gguf_file.h"

namespace paceline::model {

// Appends `value`'s bytes, little-endian: for AddRaw.
template <typename T>
void AppendRaw(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// A GGUF string: its length as uint64, then its bytes.
std::string EncodeGgufString(std::string_view text);

class GgufWriter {
 public:
  // One tensor as it will be written; every field may be a lie.
  struct Tensor {
    std::string name;
    uint32_t type_id = 0;
    std::vector<int64_t> shape;  // GGUF order: shape[0] varies fastest
    std::string data;
    std::optional<uint32_t> num_dims;  // instead of shape.size()
    std::optional<uint64_t> offset;    // instead of where the data really lies
  };

  // ---- Metadata, in the order of the calls. Nothing is checked: a key may be empty or repeated.
  GgufWriter& AddUint32(std::string_view key, uint32_t value);
  GgufWriter& AddFloat(std::string_view key, float value);
  GgufWriter& AddBool(std::string_view key, bool value);
  GgufWriter& AddString(std::string_view key, std::string_view value);
  GgufWriter& AddStrings(std::string_view key, absl::Span<const std::string> values);
  GgufWriter& AddInt32s(std::string_view key, absl::Span<const int32_t> values);
  GgufWriter& AddFloats(std::string_view key, absl::Span<const float> values);
  // Any type id and any bytes after it.
  GgufWriter& AddRaw(std::string_view key, uint32_t type_id, std::string_view bytes);
  // The bytes of a whole entry, key included.
  GgufWriter& AddRawEntry(std::string_view bytes);
  // Removes every entry called `key`; to replace one, remove and add it.
  GgufWriter& RemoveKey(std::string_view key);

  // ---- Tensors, in the order of the calls.
  // `data` is encoded already; Quantize (quantize.h) makes it from floats.
  GgufWriter& AddTensor(std::string_view name,
                        TensorType type,
                        std::vector<int64_t> shape,
                        std::string data);
  // All zero bytes, as many as the shape needs.
  GgufWriter& AddZeroTensor(std::string_view name, TensorType type, std::vector<int64_t> shape);
  GgufWriter& AddRawTensor(Tensor tensor);
  GgufWriter& RemoveTensor(std::string_view name);

  // ---- Overrides of what the preamble says.
  GgufWriter& SetMagic(uint32_t magic);
  GgufWriter& SetVersion(uint32_t version);
  GgufWriter& SetNumTensors(uint64_t count);
  GgufWriter& SetNumEntries(uint64_t count);
  // Places the tensors at multiples of `alignment` and adds the key that says so.
  GgufWriter& SetAlignment(uint32_t alignment);

  // The file. HeaderBytes: how many of them lie before the padding and the tensor data.
  std::string Bytes() const;
  size_t HeaderBytes() const { return Header().size(); }
  absl::Status WriteTo(const std::string& path) const;

 private:
  struct Entry {
    std::string key;
    std::string bytes;  // encoded, key included
  };

  std::string Header() const;

  uint32_t magic_ = 0x46554747u;  // "GGUF"
  uint32_t version_ = 3;
  uint32_t alignment_ = 32;
  std::optional<uint64_t> num_tensors_;
  std::optional<uint64_t> num_entries_;
  std::vector<Entry> entries_;
  std::vector<Tensor> tensors_;
};

}  // namespace paceline::model

#endif  // PACELINE_TESTS_FAKES_GGUF_WRITER_H_
