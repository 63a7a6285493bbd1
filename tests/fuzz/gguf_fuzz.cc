// A GGUF file of any bytes: refused, or everything that it offers is in bounds.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <string_view>
#include <vector>

#include "model/config/model_config.h"
#include "model/gguf/gguf_file.h"
#include "proto/support/log.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace paceline::model {
namespace {

void ReadEveryEntry(const GgufFile& file) {
  for (const GgufEntry& entry : file.entries()) {
    PACELINE_CHECK(file.Has(entry.key), "an entry cannot be found by its key");
    const auto strings = file.GetStrings(entry.key);
    if (strings.ok()) {
      for (const std::string_view text : *strings) (void)std::count(text.begin(), text.end(), 'x');
    }
    (void)file.GetInt(entry.key);
    (void)file.GetFloat(entry.key);
    (void)file.GetBool(entry.key);
    (void)file.GetString(entry.key);
    (void)file.GetInt32s(entry.key);
    (void)file.GetFloats(entry.key);
  }
}

void CheckTensors(const GgufFile& file, const uint8_t* begin, const uint8_t* end) {
  std::vector<const TensorInfo*> by_place;
  for (const TensorInfo& tensor : file.tensors()) {
    PACELINE_CHECK(file.FindTensor(tensor.name) == &tensor, "a tensor cannot be found by name");
    __int128 num_elements = 1;
    for (const int64_t size : tensor.shape) {
      PACELINE_CHECK(size > 0, "a dimension below 1");
      num_elements *= size;  // four factors, and the first three are checked below 2^63 by the file
    }
    PACELINE_CHECK(num_elements == tensor.num_elements, "element count is not the product");
    const TensorTypeInfo& type = GetTensorTypeInfo(tensor.type);
    PACELINE_CHECK(num_elements * type.block_bytes ==
                       static_cast<__int128>(tensor.num_bytes) * type.block_size,
                   "byte count is not that of the elements");
    PACELINE_CHECK(
        tensor.data >= begin && tensor.data <= end && tensor.num_bytes <= end - tensor.data,
        "tensor data outside the file");
    std::vector<float> floats(tensor.num_elements);
    Dequantize(tensor.type, tensor.data, tensor.num_elements, floats.data());
    by_place.push_back(&tensor);
  }
  std::sort(by_place.begin(), by_place.end(), [](const TensorInfo* a, const TensorInfo* b) {
    return a->data < b->data;
  });
  for (size_t i = 1; i < by_place.size(); ++i) {
    PACELINE_CHECK(by_place[i - 1]->data + by_place[i - 1]->num_bytes <= by_place[i]->data,
                   "tensors overlap");
  }
}

void CheckConfig(const GgufFile& file) {
  const auto config = ModelConfigFromGguf(file);
  if (!config.ok()) return;
  PACELINE_CHECK(config->num_kv_heads > 0 && config->num_heads % config->num_kv_heads == 0,
                 "heads are not a multiple of KV heads");
  PACELINE_CHECK(config->rope_dim > 0 && config->rope_dim <= config->head_dim, "rope_dim");
  PACELINE_CHECK(config->rms_norm_eps > 0 && config->rope_theta > 0, "eps or theta");
  if (ValidateLlamaTensors(*config, file).ok()) {
    const TensorInfo* embedding = file.FindTensor("token_embd.weight");
    PACELINE_CHECK(embedding->num_elements == int64_t{config->hidden_size} * config->vocab_size,
                   "the embedding is not hidden_size by vocab_size");
  }
}

// ---- The structure-aware mutator: finds the numbers of the header and replaces one.

struct Field {
  size_t at;
  size_t bytes;
};

// Walks the header as far as it makes sense and notes where its numbers lie.
class FieldFinder {
 public:
  FieldFinder(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  std::vector<Field> Find() {
    at_ = 4;  // magic
    Number(4);
    const uint64_t num_tensors = Number(8);
    const uint64_t num_entries = Number(8);
    for (uint64_t i = 0; i < num_entries && at_ < size_; ++i) Entry();
    for (uint64_t i = 0; i < num_tensors && at_ < size_; ++i) Tensor();
    return fields_;
  }

 private:
  uint64_t Number(size_t bytes) {
    if (size_ - std::min(at_, size_) < bytes) {
      at_ = size_;
      return 0;
    }
    uint64_t value = 0;
    std::memcpy(&value, data_ + at_, bytes);
    fields_.push_back({at_, bytes});
    at_ += bytes;
    return value;
  }

  void Skip(uint64_t bytes) { at_ = bytes > size_ - at_ ? size_ : at_ + bytes; }

  void Text() { Skip(Number(8)); }

  void Value(uint64_t type) {
    if (type == 8) return Text();
    Number(static_cast<size_t>(ValueBytes(type)));
  }

  static int64_t ValueBytes(uint64_t type) {
    return type < 13 ? GgufValueBytes(static_cast<GgufValueType>(type)) : 0;
  }

  void Entry() {
    Text();
    const uint64_t type = Number(4);
    if (type != 9) return Value(type);
    const uint64_t element_type = Number(4);
    const uint64_t count = Number(8);
    for (uint64_t i = 0; i < count && at_ < size_; ++i) {
      if (element_type != 8 && ValueBytes(element_type) == 0) return;
      Value(element_type);
    }
  }

  void Tensor() {
    Text();
    const uint64_t num_dims = Number(4);
    for (uint64_t i = 0; i < std::min<uint64_t>(num_dims, 8); ++i) Number(8);
    Number(4);
    Number(8);
  }

  const uint8_t* data_;
  size_t size_;
  size_t at_ = 0;
  std::vector<Field> fields_;
};

}  // namespace
}  // namespace paceline::model

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace paceline::model;
  const auto file = GgufFile::FromBytes({reinterpret_cast<const char*>(data), size});
  if (!file.ok()) return 0;
  ReadEveryEntry(**file);
  CheckTensors(**file, data, data + size);
  CheckConfig(**file);
  PACELINE_CHECK((*file)->Digest().size() == 32, "digest");
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data,
                                          size_t size,
                                          size_t max_size,
                                          unsigned int seed) {
  using paceline::model::Field;
  std::minstd_rand random(seed);
  const std::vector<Field> fields = paceline::model::FieldFinder(data, size).Find();
  if (fields.empty() || random() % 8 == 0) return LLVMFuzzerMutate(data, size, max_size);
  const Field& field = fields[random() % fields.size()];
  uint64_t value = 0;
  std::memcpy(&value, data + field.at, field.bytes);
  const Field& other = fields[random() % fields.size()];
  uint64_t other_value = 0;
  std::memcpy(&other_value, data + other.at, other.bytes);
  const uint64_t choices[] = {0,
                              1,
                              value + 1,
                              value - 1,
                              value * 2,
                              value / 2,
                              value ^ (1ULL << random() % 64),
                              random() % 40,
                              32 * (random() % 64),
                              size,
                              size - field.at,
                              other_value,
                              0x7fffffff,
                              0x80000000,
                              0xffffffff,
                              1ULL << 32,
                              1ULL << 60,
                              1ULL << 61,
                              1ULL << 62,
                              1ULL << 63,
                              ~0ULL,
                              ~0ULL - 31};
  value = choices[random() % std::size(choices)];
  std::memcpy(data + field.at, &value, field.bytes);
  return size;
}
