// Files that lie: each one is refused with an error that names the field (docs: rows 106 to 110 of
// the bad-input catalogue).
#include <functional>
#include <ostream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/gguf/gguf_file.h"
#include "tests/fakes/gguf_writer.h"

namespace paceline::model {
namespace {

using ::testing::HasSubstr;

template <typename T>
std::string Raw(T value) {
  std::string bytes;
  AppendRaw(bytes, value);
  return bytes;
}

// Length `size`, then `text`, whatever its own length is.
std::string FalseString(uint64_t size, std::string_view text) { return Raw(size).append(text); }

std::string ArrayHeader(uint32_t element_type, uint64_t count) {
  return Raw(element_type) + Raw(count);
}

GgufWriter::Tensor F32Tensor(std::string name, std::vector<int64_t> shape) {
  return {std::move(name), 0, std::move(shape), std::string(64, '\0'), std::nullopt, std::nullopt};
}

GgufWriter::Tensor WithType(GgufWriter::Tensor tensor, uint32_t type_id) {
  tensor.type_id = type_id;
  return tensor;
}

GgufWriter::Tensor WithOffset(GgufWriter::Tensor tensor, uint64_t offset) {
  tensor.offset = offset;
  return tensor;
}

GgufWriter::Tensor WithNumDims(GgufWriter::Tensor tensor, uint32_t num_dims) {
  tensor.num_dims = num_dims;
  return tensor;
}

struct HostileCase {
  const char* name;
  std::function<void(GgufWriter&)> falsify;
  const char* error;  // part of the text
};

void PrintTo(const HostileCase& c, std::ostream* out) { *out << c.name; }

class GgufHostileTest : public ::testing::TestWithParam<HostileCase> {};

TEST_P(GgufHostileTest, IsRefusedByName) {
  GgufWriter writer;
  writer.AddUint32("good.key", 1).AddRawTensor(F32Tensor("good", {16}));
  ASSERT_TRUE(GgufFile::FromBytes(writer.Bytes()).ok());
  GetParam().falsify(writer);
  const auto file = GgufFile::FromBytes(writer.Bytes());
  ASSERT_FALSE(file.ok());
  EXPECT_THAT(std::string(file.status().message()), HasSubstr(GetParam().error));
  EXPECT_EQ(file.status().message().find("gguf: "), 0u);
}

constexpr int64_t kHuge = int64_t{1} << 62;

const HostileCase kCases[] = {
    // Preamble
    {"Magic", [](auto& w) { w.SetMagic(0x46554748); }, "magic: not a GGUF file"},
    {"Version0", [](auto& w) { w.SetVersion(0); }, "version: 0 is not 2 or 3"},
    {"Version1", [](auto& w) { w.SetVersion(1); }, "version: 1 is not supported"},
    {"Version4", [](auto& w) { w.SetVersion(4); }, "version: 4 is not 2 or 3"},
    {"BigEndian", [](auto& w) { w.SetVersion(0x03000000); }, "big-endian"},
    {"NumEntries2To63", [](auto& w) { w.SetNumEntries(uint64_t{1} << 63); }, "metadata count 9223"},
    {"NumEntriesMax", [](auto& w) { w.SetNumEntries(~uint64_t{0}); }, "metadata count 1844"},
    {"NumEntriesOverFile", [](auto& w) { w.SetNumEntries(1000); }, "metadata count 1000"},
    {"NumEntriesOneMore", [](auto& w) { w.SetNumEntries(2); }, "gguf: "},
    {"NumTensors2To63", [](auto& w) { w.SetNumTensors(uint64_t{1} << 63); }, "tensor count 9223"},
    {"NumTensorsMax", [](auto& w) { w.SetNumTensors(~uint64_t{0}); }, "tensor count 1844"},
    {"NumTensorsOverFile", [](auto& w) { w.SetNumTensors(1000); }, "tensor count 1000"},
    {"NumTensorsOneMore", [](auto& w) { w.SetNumTensors(2); }, "tensor 1 name"},
    // Keys and values
    {"KeyLength2To63",
     [](auto& w) { w.AddRawEntry(FalseString(uint64_t{1} << 63, "k")); },
     "metadata key 1: length 9223372036854775808"},
    {"KeyLengthOverFile",
     [](auto& w) { w.AddRawEntry(FalseString(60000, "k")); },
     "metadata key 1: length 60000 is past the end"},
    {"KeyEmpty", [](auto& w) { w.AddUint32("", 1); }, "metadata key 1: the key is empty"},
    {"KeyTwice", [](auto& w) { w.AddUint32("good.key", 1); }, "key 'good.key': it appears twice"},
    {"KeyOverlong",
     [](auto& w) { w.AddUint32(std::string(70000, 'k'), 1); },
     "length 70000 is over the limit of 65535"},
    {"KeyWithControlBytesIsEscaped",
     [](auto& w) { w.AddRaw("a\n\x1b[2J", 255, "1234"); },
     "key 'a\\n\\x1b[2J': unknown value type 255"},
    {"ValueType13", [](auto& w) { w.AddRaw("k", 13, "1234"); }, "key 'k': unknown value type 13"},
    {"ValueType255",
     [](auto& w) { w.AddRaw("k", 255, "1234"); },
     "key 'k': unknown value type 255"},
    {"ValueTypeMax", [](auto& w) { w.AddRaw("k", ~0u, "1234"); }, "unknown value type 4294967295"},
    {"Bool2", [](auto& w) { w.AddRaw("k", 7, "\2"); }, "key 'k': a BOOL of value 2"},
    {"StringLengthMax",
     [](auto& w) { w.AddRaw("k", 8, FalseString(~uint64_t{0}, "v")); },
     "key 'k': length 18446744073709551615 is past the end"},
    {"ArrayType255",
     [](auto& w) { w.AddRaw("k", 9, ArrayHeader(255, 1) + "1"); },
     "key 'k': unknown array element type 255"},
    {"ArrayNested",
     [](auto& w) { w.AddRaw("k", 9, ArrayHeader(9, 1) + ArrayHeader(0, 1) + "1"); },
     "key 'k': arrays of arrays"},
    {"ArrayCount2To60",
     [](auto& w) { w.AddRaw("k", 9, ArrayHeader(0, uint64_t{1} << 60)); },
     "key 'k': array of 1152921504606846976 elements"},
    {"ArrayBytesOverflow",  // 2^61 elements of 8 bytes: 2^64
     [](auto& w) { w.AddRaw("k", 9, ArrayHeader(10, uint64_t{1} << 61)); },
     "key 'k': array of 2305843009213693952 elements"},
    {"ArrayOfStringsCount2To60",
     [](auto& w) { w.AddRaw("k", 9, ArrayHeader(8, uint64_t{1} << 60)); },
     "key 'k': array of 1152921504606846976 elements"},
    {"ArrayOfStringsOneTooLong",
     [](auto& w) {
       w.AddRaw("k", 9, ArrayHeader(8, 2) + EncodeGgufString("ok") + FalseString(1 << 30, "x"));
     },
     "key 'k': length 1073741824 is past the end"},
    // Alignment
    {"Alignment0",
     [](auto& w) { w.AddUint32("general.alignment", 0); },
     "'general.alignment': 0 is"},
    {"Alignment3",
     [](auto& w) { w.AddUint32("general.alignment", 3); },
     "'general.alignment': 3 is"},
    {"Alignment1",
     [](auto& w) { w.AddUint32("general.alignment", 1); },
     "'general.alignment': 1 is"},
    {"Alignment2To31",
     [](auto& w) { w.AddUint32("general.alignment", 1u << 31); },
     "'general.alignment': 2147483648 is"},
    {"AlignmentIsAString",
     [](auto& w) { w.AddString("general.alignment", "32"); },
     "'general.alignment': expected UINT32, found STRING"},
    // Tensor infos
    {"TensorNameEmpty",
     [](auto& w) { w.AddRawTensor(F32Tensor("", {1})); },
     "tensor 1 name: it is empty"},
    {"TensorNameTwice",
     [](auto& w) { w.AddRawTensor(F32Tensor("good", {1})); },
     "tensor 'good': the name appears twice"},
    {"TensorNameOverlong",
     [](auto& w) { w.AddRawTensor(F32Tensor(std::string(65, 't'), {1})); },
     "tensor 1 name: length 65 is over the limit of 64"},
    {"Dims0", [](auto& w) { w.AddRawTensor(F32Tensor("t", {})); }, "tensor 't': 0 dimensions"},
    {"Dims5",
     [](auto& w) {
       w.AddRawTensor(F32Tensor("t", {1, 1, 1, 1, 1}));
     },
     "tensor 't': 5 dimensions"},
    {"DimsMax",
     [](auto& w) { w.AddRawTensor(WithNumDims(F32Tensor("t", {1}), ~0u)); },
     "tensor 't': 4294967295 dimensions"},
    {"Size0",
     [](auto& w) {
       w.AddRawTensor(F32Tensor("t", {4, 0}));
     },
     "tensor 't': dimension 1 is 0"},
    {"SizeNegative",
     [](auto& w) { w.AddRawTensor(F32Tensor("t", {-1})); },
     "'t': dimension 0 is -1"},
    {"ProductOverflow",
     [](auto& w) {
       w.AddRawTensor(F32Tensor("t", {kHuge, 4}));
     },
     "tensor 't': the product of its dimensions overflows"},
    {"ProductOverflowToSmall",  // 2^32 · 2^32 = 2^64, which wraps to 0
     [](auto& w) {
       w.AddRawTensor(F32Tensor("t", {int64_t{1} << 32, int64_t{1} << 32}));
     },
     "tensor 't': the product of its dimensions overflows"},
    {"BytesOverflow",
     [](auto& w) { w.AddRawTensor(F32Tensor("t", {kHuge})); },
     "tensor 't': its size in bytes overflows"},
    {"TypeUnsupported",
     [](auto& w) { w.AddRawTensor(WithType(F32Tensor("t", {256}), 12)); },
     "tensor 't': type 12 (Q4_K) is not supported; supported: F32 F16 Q4_0 Q4_1 Q8_0 BF16"},
    {"TypeUnknown",
     [](auto& w) { w.AddRawTensor(WithType(F32Tensor("t", {256}), 4000)); },
     "tensor 't': type 4000 is not supported"},
    {"RowIsNotWholeBlocks",  // 64 elements are two blocks, but each row is half of one
     [](auto& w) {
       w.AddRawTensor(WithType(F32Tensor("t", {16, 4}), 3));
     },
     "tensor 't': rows of 16 elements are not whole Q4_1 blocks of 32"},
    {"OffsetUnaligned",
     [](auto& w) { w.AddRawTensor(WithOffset(F32Tensor("t", {1}), 68)); },
     "tensor 't': offset 68 is not a multiple of the alignment 32"},
    {"OffsetPastTheEnd",
     [](auto& w) { w.AddRawTensor(WithOffset(F32Tensor("t", {1}), 4096)); },
     "tensor 't': offset 4096 and 4 bytes are past the end"},
    {"OffsetMax",
     [](auto& w) { w.AddRawTensor(WithOffset(F32Tensor("t", {16}), ~uint64_t{31})); },
     "tensor 't': offset 18446744073709551584 and 64 bytes are past the end"},
    {"DataPastTheEnd",
     [](auto& w) { w.AddRawTensor(F32Tensor("t", {17})); },
     "tensor 't': offset 64 and 68 bytes are past the end"},
    {"Overlap",
     [](auto& w) { w.AddRawTensor(WithOffset(F32Tensor("t", {16}), 32)); },
     "tensor 't': offset 32 overlaps tensor 'good'"},
    {"SamePlace",
     [](auto& w) { w.AddRawTensor(WithOffset(F32Tensor("t", {1}), 0)); },
     "overlaps tensor"},
};

INSTANTIATE_TEST_SUITE_P(Files, GgufHostileTest, ::testing::ValuesIn(kCases), [](const auto& info) {
  return info.param.name;
});

TEST(GgufHostileCountTest, CountsOverTheLimitAreRefusedHoweverLargeTheFile) {
  std::string bytes = GgufWriter().SetNumEntries(kMaxGgufEntries + 1).Bytes();
  bytes.resize(4 << 20);
  const auto file = GgufFile::FromBytes(bytes);
  EXPECT_THAT(std::string(file.status().message()),
              HasSubstr("metadata count 65537 is over the limit of 65536"));
}

}  // namespace
}  // namespace paceline::model
