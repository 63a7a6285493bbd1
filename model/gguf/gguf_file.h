// A GGUF model file, version 2 or 3, memory-mapped: metadata, and tensors as views into the
// mapping. Owned by whoever opened it; immutable after Open, so any thread may read it.
//
// Everything that the file says about itself (counts, lengths, offsets, dimensions, type ids) is
// checked in Open, so a file that opens can be read without further checks. What cannot be checked
// is the future: a file that another process truncates while it is mapped ends this one
// (mapped_file.h).
// All views (string_view, TensorInfo::data) point into the mapping and live as long as the
// GgufFile.
#ifndef PACELINE_MODEL_GGUF_GGUF_FILE_H_
#define PACELINE_MODEL_GGUF_GGUF_FILE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "model/gguf/gguf_header.h"
#include "model/gguf/mapped_file.h"

namespace paceline::model {

class GgufFile {
 public:
  // NotFound, PermissionDenied: the file cannot be opened. InvalidArgument: it is not a well-formed
  // GGUF file; the text names the field. Unimplemented: well-formed, but of a version, byte order
  // or tensor type that is not supported.
  static absl::StatusOr<std::unique_ptr<GgufFile>> Open(const std::string& path);
  // The same over bytes in memory, which must outlive the GgufFile.
  static absl::StatusOr<std::unique_ptr<GgufFile>> FromBytes(std::string_view bytes);
  ~GgufFile() = default;
  GgufFile(const GgufFile&) = delete;
  GgufFile& operator=(const GgufFile&) = delete;

  // ---- Metadata. A getter fails with NotFound when the key is absent and with InvalidArgument
  // when its type does not fit or the value is out of range; both name the key. Get…Or gives the
  // default for an absent key only.
  bool Has(std::string_view key) const { return FindEntry(key) != nullptr; }
  const std::vector<GgufEntry>& entries() const { return header_.entries; }
  // Any integer type.
  absl::StatusOr<int64_t> GetInt(std::string_view key) const;
  absl::StatusOr<int64_t> GetIntOr(std::string_view key, int64_t absent) const;
  // FLOAT32 or FLOAT64.
  absl::StatusOr<double> GetFloat(std::string_view key) const;
  absl::StatusOr<double> GetFloatOr(std::string_view key, double absent) const;
  absl::StatusOr<bool> GetBool(std::string_view key) const;
  absl::StatusOr<bool> GetBoolOr(std::string_view key, bool absent) const;
  absl::StatusOr<std::string_view> GetString(std::string_view key) const;
  absl::StatusOr<std::string_view> GetStringOr(std::string_view key, std::string_view absent) const;
  // Arrays are decoded on each call. Elements of GetInt32s are of any integer type, but must fit.
  absl::StatusOr<int64_t> GetArraySize(std::string_view key) const;
  absl::StatusOr<std::vector<std::string_view>> GetStrings(std::string_view key) const;
  absl::StatusOr<std::vector<int32_t>> GetInt32s(std::string_view key) const;
  absl::StatusOr<std::vector<float>> GetFloats(std::string_view key) const;

  // ---- Tensors, in the order of the file.
  const std::vector<TensorInfo>& tensors() const { return header_.tensors; }
  // nullptr when there is no such tensor.
  const TensorInfo* FindTensor(std::string_view name) const;

  int64_t file_bytes() const { return static_cast<int64_t>(bytes_.size()); }
  uint32_t version() const { return header_.version; }

  // 32 hex digits that tell models apart and are the same wherever the same file is opened: the
  // first half of the SHA-256 of the whole header (metadata, vocabulary, tensor infos) and of a
  // sample of the data, at most 16 KiB of each tensor, spread evenly from its first byte to its
  // last. So a model of any size takes well under a second, and a retrained or requantized tensor
  // changes the digest; a few flipped bits in a large tensor may not, so it is no integrity check
  // of a download.
  std::string Digest() const;

  // Lets the kernel drop the resident pages of the tensor data; later reads fetch them again.
  void GiveBackPages() const;

 private:
  GgufFile(std::string_view bytes, MappedFile mapped) : mapped_(std::move(mapped)), bytes_(bytes) {}

  const GgufEntry* FindEntry(std::string_view key) const;
  // The entry; NotFound when there is none. GetArrayEntry: InvalidArgument when it is no array.
  absl::StatusOr<const GgufEntry*> GetEntry(std::string_view key) const;
  absl::StatusOr<const GgufEntry*> GetArrayEntry(std::string_view key) const;

  MappedFile mapped_;       // empty when the bytes are the caller's
  std::string_view bytes_;  // the whole file
  GgufHeader header_;
};

}  // namespace paceline::model

#endif  // PACELINE_MODEL_GGUF_GGUF_FILE_H_
