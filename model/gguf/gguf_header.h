// The parsed header of a GGUF file: what its bytes say, checked. Part of GgufFile, which owns it;
// stateless to parse, immutable after that, any thread.
#ifndef PACELINE_MODEL_GGUF_GGUF_HEADER_H_
#define PACELINE_MODEL_GGUF_GGUF_HEADER_H_

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/statusor.h"
#include "model/gguf/tensor_type.h"

namespace paceline::model {

// The values are the ids in the file.
enum class GgufValueType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// One metadata entry, still encoded.
struct GgufEntry {
  std::string_view key;
  GgufValueType type;
  GgufValueType element_type;  // of an array; never kArray. Otherwise equal to `type`
  int64_t count;               // elements of an array; otherwise 1
  std::string_view bytes;      // the encoded value, or the encoded elements of an array
};

struct TensorInfo {
  std::string_view name;
  TensorType type;
  absl::InlinedVector<int64_t, 4> shape;  // 1 to 4 sizes, GGUF order: shape[0] varies fastest
  int64_t num_elements;
  int64_t num_bytes;
  const uint8_t* data;  // num_bytes of them; REQUIRES nothing of alignment from those who read it
};

struct GgufHeader {
  uint32_t version = 0;
  size_t header_bytes = 0;  // from the start of the file to the end of the tensor infos
  size_t data_offset = 0;   // where tensor data may start; at most the file's size
  std::vector<GgufEntry> entries;
  std::vector<TensorInfo> tensors;
  absl::flat_hash_map<std::string_view, size_t> entry_index;
  absl::flat_hash_map<std::string_view, size_t> tensor_index;
};

// Largest counts and lengths that are accepted; real files stay far below.
inline constexpr uint64_t kMaxGgufEntries = 65536;
inline constexpr uint64_t kMaxGgufTensors = 65536;
inline constexpr uint64_t kMaxGgufKeyBytes = 65535;      // the format's own limit
inline constexpr uint64_t kMaxGgufTensorNameBytes = 64;  // the format's own limit
inline constexpr int64_t kMaxGgufAlignment = 65536;

// Parses a whole file's bytes; views in the result point into them. Fails as GgufFile::Open does.
// Checks every count, length and offset before it is used; allocates no more than a small multiple
// of the header's size, whatever the header claims.
absl::StatusOr<GgufHeader> ParseGgufHeader(std::string_view file);

// Bytes of one encoded value of a fixed-size type; 0 for kString and kArray.
int64_t GgufValueBytes(GgufValueType type);
std::string_view GgufValueTypeName(GgufValueType type);

}  // namespace paceline::model

#endif  // PACELINE_MODEL_GGUF_GGUF_HEADER_H_
