#include "model/gguf/gguf_file.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/gguf_writer.h"
#include "tests/fakes/quantize.h"
#include "tests/fakes/tiny_model.h"

namespace paceline::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kRealModel[] = "models/SmolLM2-135M-Instruct.Q4_1.gguf";

std::unique_ptr<GgufFile> OpenBytes(std::string_view bytes) {
  auto file = GgufFile::FromBytes(bytes);
  EXPECT_TRUE(file.ok()) << file.status();
  return file.ok() ? *std::move(file) : nullptr;
}

template <typename T>
std::string Raw(T value) {
  std::string bytes;
  AppendRaw(bytes, value);
  return bytes;
}

template <typename T>
std::string RawArray(GgufValueType element_type, std::initializer_list<T> values) {
  std::string bytes = Raw(static_cast<uint32_t>(element_type)) + Raw(uint64_t{values.size()});
  for (const T value : values) AppendRaw(bytes, value);
  return bytes;
}

TEST(GgufFileTest, ReadsEveryScalarType) {
  const std::string bytes = GgufWriter()
                                .AddRaw("u8", 0, Raw(uint8_t{200}))
                                .AddRaw("i8", 1, Raw(int8_t{-100}))
                                .AddRaw("u16", 2, Raw(uint16_t{60000}))
                                .AddRaw("i16", 3, Raw(int16_t{-30000}))
                                .AddRaw("u32", 4, Raw(uint32_t{4000000000}))
                                .AddRaw("i32", 5, Raw(int32_t{-2000000000}))
                                .AddRaw("f32", 6, Raw(1.5f))
                                .AddRaw("bool", 7, Raw(uint8_t{1}))
                                .AddString("string", std::string_view("a\0b", 3))
                                .AddRaw("u64", 10, Raw(uint64_t{1} << 62))
                                .AddRaw("i64", 11, Raw(int64_t{-1} << 62))
                                .AddRaw("f64", 12, Raw(-0.1))
                                .Bytes();
  const auto file = OpenBytes(bytes);
  EXPECT_EQ(file->GetInt("u8").value(), 200);
  EXPECT_EQ(file->GetInt("i8").value(), -100);
  EXPECT_EQ(file->GetInt("u16").value(), 60000);
  EXPECT_EQ(file->GetInt("i16").value(), -30000);
  EXPECT_EQ(file->GetInt("u32").value(), 4000000000);
  EXPECT_EQ(file->GetInt("i32").value(), -2000000000);
  EXPECT_EQ(file->GetFloat("f32").value(), 1.5);
  EXPECT_EQ(file->GetBool("bool").value(), true);
  EXPECT_EQ(file->GetString("string").value(), std::string_view("a\0b", 3));
  EXPECT_EQ(file->GetInt("u64").value(), int64_t{1} << 62);
  EXPECT_EQ(file->GetInt("i64").value(), int64_t{-1} << 62);
  EXPECT_EQ(file->GetFloat("f64").value(), -0.1);
  EXPECT_EQ(file->entries().size(), 12u);
}

TEST(GgufFileTest, ReadsArrays) {
  const std::string bytes =
      GgufWriter()
          .AddStrings("strings", {"one", "", "drei"})
          .AddInt32s("i32s", {1, -2})
          .AddRaw("u8s", 9, RawArray<uint8_t>(GgufValueType::kUint8, {255, 0}))
          .AddRaw("i64s", 9, RawArray<int64_t>(GgufValueType::kInt64, {-5, 7}))
          .AddFloats("f32s", {0.5f, -1.0f})
          .AddRaw("bools", 9, RawArray<uint8_t>(GgufValueType::kBool, {1, 0, 1}))
          .AddStrings("none", {})
          .Bytes();
  const auto file = OpenBytes(bytes);
  EXPECT_THAT(file->GetStrings("strings").value(), ElementsAre("one", "", "drei"));
  EXPECT_THAT(file->GetInt32s("i32s").value(), ElementsAre(1, -2));
  EXPECT_THAT(file->GetInt32s("u8s").value(), ElementsAre(255, 0));
  EXPECT_THAT(file->GetInt32s("i64s").value(), ElementsAre(-5, 7));
  EXPECT_THAT(file->GetFloats("f32s").value(), ElementsAre(0.5f, -1.0f));
  EXPECT_EQ(file->GetArraySize("bools").value(), 3);
  EXPECT_THAT(file->GetStrings("none").value(), ElementsAre());
  EXPECT_EQ(file->entries()[0].element_type, GgufValueType::kString);
}

TEST(GgufFileTest, GetterOfAnAbsentKeyIsNotFoundAndNamesIt) {
  const auto file = OpenBytes(GgufWriter().Bytes());
  EXPECT_EQ(file->GetInt("a.b").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(file->GetString("a.b").status().message()), HasSubstr("'a.b'"));
  EXPECT_EQ(file->GetIntOr("a.b", 7).value(), 7);
  EXPECT_EQ(file->GetFloatOr("a.b", 0.5).value(), 0.5);
  EXPECT_EQ(file->GetBoolOr("a.b", true).value(), true);
  EXPECT_EQ(file->GetStringOr("a.b", "x").value(), "x");
  EXPECT_FALSE(file->Has("a.b"));
}

TEST(GgufFileTest, GetterOfAnotherTypeNamesKeyAndBothTypes) {
  const std::string bytes = GgufWriter().AddString("k", "text").AddInt32s("a", {1}).Bytes();
  const auto file = OpenBytes(bytes);
  const auto message = [](const auto& result) { return std::string(result.status().message()); };
  EXPECT_EQ(message(file->GetInt("k")), "gguf: key 'k': expected an integer, found STRING");
  EXPECT_EQ(message(file->GetIntOr("k", 1)), "gguf: key 'k': expected an integer, found STRING");
  EXPECT_EQ(message(file->GetFloat("k")),
            "gguf: key 'k': expected FLOAT32 or FLOAT64, found STRING");
  EXPECT_EQ(message(file->GetBool("k")), "gguf: key 'k': expected BOOL, found STRING");
  EXPECT_EQ(message(file->GetString("a")), "gguf: key 'a': expected STRING, found ARRAY of INT32");
  EXPECT_EQ(message(file->GetArraySize("k")), "gguf: key 'k': expected an array, found STRING");
  EXPECT_EQ(message(file->GetStrings("a")),
            "gguf: key 'a': expected ARRAY of STRING, found ARRAY of INT32");
  EXPECT_EQ(message(file->GetFloats("a")),
            "gguf: key 'a': expected ARRAY of FLOAT32, found ARRAY of INT32");
  EXPECT_EQ(file->GetInt("k").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(GgufFileTest, GetterRefusesNumbersThatDoNotFit) {
  const std::string bytes =
      GgufWriter()
          .AddRaw("big", 10, Raw(~uint64_t{0}))
          .AddRaw("bigs", 9, RawArray<uint32_t>(GgufValueType::kUint32, {1, 1u << 31}))
          .Bytes();
  const auto file = OpenBytes(bytes);
  EXPECT_EQ(std::string(file->GetInt("big").status().message()),
            "gguf: key 'big': 18446744073709551615 is out of range");
  EXPECT_EQ(std::string(file->GetInt32s("bigs").status().message()),
            "gguf: key 'bigs': element 1 is out of range");
}

TEST(GgufFileTest, ReadsTensorsInTheOrderOfTheFile) {
  const std::string data = Quantize(TensorType::kF32, {1, 2, 3, 4, 5, 6});
  const std::string bytes = GgufWriter()
                                .AddTensor("b", TensorType::kF32, {3, 2}, data)
                                .AddZeroTensor("a", TensorType::kQ4_1, {64, 1, 2, 1})
                                .Bytes();
  const auto file = OpenBytes(bytes);
  ASSERT_EQ(file->tensors().size(), 2u);
  const TensorInfo& b = file->tensors()[0];
  EXPECT_EQ(b.name, "b");
  EXPECT_EQ(b.type, TensorType::kF32);
  EXPECT_THAT(b.shape, ElementsAre(3, 2));
  EXPECT_EQ(b.num_elements, 6);
  EXPECT_EQ(b.num_bytes, 24);
  float values[6];
  Dequantize(b.type, b.data, 6, values);
  EXPECT_THAT(values, ElementsAre(1, 2, 3, 4, 5, 6));
  const TensorInfo* a = file->FindTensor("a");
  ASSERT_NE(a, nullptr);
  EXPECT_THAT(a->shape, ElementsAre(64, 1, 2, 1));
  EXPECT_EQ(a->num_bytes, 80);
  EXPECT_EQ(file->FindTensor("c"), nullptr);
}

TEST(GgufFileTest, VersionTwoAndOtherAlignmentsOpen) {
  GgufWriter writer;
  writer.SetVersion(2)
      .SetAlignment(256)
      .AddZeroTensor("a", TensorType::kF32, {3})
      .AddZeroTensor("b", TensorType::kF32, {3});
  const std::string bytes = writer.Bytes();
  const auto file = OpenBytes(bytes);
  EXPECT_EQ(file->version(), 2u);
  EXPECT_EQ((file->tensors()[0].data - reinterpret_cast<const uint8_t*>(bytes.data())) % 256, 0);
  EXPECT_EQ(file->tensors()[1].data - file->tensors()[0].data, 256);
}

TEST(GgufFileTest, GapsAnyTensorOrderAndTrailingBytesAreFine) {
  GgufWriter writer;
  const std::string data(32, '\0');
  writer.AddRawTensor({"late", 0, {8}, data, std::nullopt, 128})
      .AddRawTensor({"early", 0, {8}, data + std::string(96, 'x'), std::nullopt, 0});
  const std::string bytes = writer.Bytes() + "trailing junk";
  const auto file = OpenBytes(bytes);
  EXPECT_GT(file->FindTensor("late")->data, file->FindTensor("early")->data);
}

TEST(GgufFileTest, FileWithAVocabularyAndNoTensorsOpens) {
  const std::string bytes = GgufWriter().AddStrings("tokenizer.ggml.tokens", {"a", "b"}).Bytes();
  const auto file = OpenBytes(bytes);
  EXPECT_TRUE(file->tensors().empty());
  EXPECT_EQ(file->GetStrings("tokenizer.ggml.tokens")->size(), 2u);
  EXPECT_EQ(file->Digest().size(), 32u);
}

class GgufFileOnDiskTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/gguf_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
  }
  void TearDown() override {
    unlink(Path("m.gguf").c_str());
    rmdir(dir_.c_str());
  }
  std::string Path(std::string_view name) const {
    return std::string(dir_).append("/").append(name);
  }

  std::string dir_;
};

TEST_F(GgufFileOnDiskTest, MappedFileEqualsTheBytes) {
  ASSERT_TRUE(WriteTinyModel(Path("m.gguf")).ok());
  const std::string bytes = TinyModelBytes();
  const auto in_memory = OpenBytes(bytes);
  auto mapped = GgufFile::Open(Path("m.gguf"));
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  EXPECT_EQ((*mapped)->file_bytes(), static_cast<int64_t>(bytes.size()));
  EXPECT_EQ((*mapped)->Digest(), in_memory->Digest());
  ASSERT_EQ((*mapped)->tensors().size(), in_memory->tensors().size());
  for (size_t i = 0; i < in_memory->tensors().size(); ++i) {
    const TensorInfo& a = (*mapped)->tensors()[i];
    const TensorInfo& b = in_memory->tensors()[i];
    EXPECT_EQ(a.name, b.name);
    EXPECT_TRUE(std::equal(a.data, a.data + a.num_bytes, b.data)) << a.name;
  }
}

TEST_F(GgufFileOnDiskTest, TensorDataIsThereAgainAfterItsPagesWereGivenBack) {
  ASSERT_TRUE(WriteTinyModel(Path("m.gguf")).ok());
  auto file = GgufFile::Open(Path("m.gguf"));
  ASSERT_TRUE(file.ok());
  const std::string before = (*file)->Digest();
  (*file)->GiveBackPages();
  EXPECT_EQ((*file)->Digest(), before);
  EXPECT_EQ((*file)->GetString("general.name").value(), "tiny");
}

// What this process holds in memory, mapped file pages included.
int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total_pages = 0;
  int64_t resident_pages = 0;
  statm >> total_pages >> resident_pages;
  return resident_pages * sysconf(_SC_PAGESIZE);
}

TEST_F(GgufFileOnDiskTest, GivingBackPagesFreesTheMemoryOfTheTensors) {
  constexpr int64_t kBytes = 32 << 20;
  ASSERT_TRUE(
      GgufWriter().AddZeroTensor("t", TensorType::kF32, {kBytes / 4}).WriteTo(Path("m.gguf")).ok());
  auto file = GgufFile::Open(Path("m.gguf"));
  ASSERT_TRUE(file.ok());
  const TensorInfo& tensor = (*file)->tensors()[0];
  const int64_t before = ResidentBytes();
  EXPECT_EQ(std::count(tensor.data, tensor.data + tensor.num_bytes, 0), kBytes);
  EXPECT_GT(ResidentBytes(), before + kBytes * 3 / 4);
  (*file)->GiveBackPages();
  EXPECT_LT(ResidentBytes(), before + kBytes / 4);
}

TEST(GgufFileTest, GivingBackPagesOfBytesInMemoryKeepsThem) {
  const std::string bytes = TinyModelBytes();
  // Page-aligned, where the kernel could drop it.
  void* memory =
      mmap(nullptr, bytes.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  const std::string_view copy(static_cast<char*>(memory), bytes.size());
  std::memcpy(memory, bytes.data(), bytes.size());
  OpenBytes(copy)->GiveBackPages();
  EXPECT_TRUE(copy == bytes);
  munmap(memory, bytes.size());
}

TEST_F(GgufFileOnDiskTest, WhatIsNoReadableFileIsRefusedByPath) {
  const auto absent = GgufFile::Open(Path("absent.gguf"));
  EXPECT_EQ(absent.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(absent.status().message()), HasSubstr("absent.gguf"));
  EXPECT_EQ(GgufFile::Open(dir_).status().code(), absl::StatusCode::kInvalidArgument);
  // A FIFO without a writer must not make the open wait.
  ASSERT_EQ(mkfifo(Path("m.gguf").c_str(), 0600), 0);
  EXPECT_THAT(std::string(GgufFile::Open(Path("m.gguf")).status().message()),
              HasSubstr("not a regular file"));
}

TEST_F(GgufFileOnDiskTest, EmptyFileIsRefused) {
  std::ofstream(Path("m.gguf")).close();
  EXPECT_EQ(std::string(GgufFile::Open(Path("m.gguf")).status().message()),
            "gguf: the file is empty");
}

TEST(GgufDigestTest, ChangesWithMetadataAndWithTensorData) {
  const std::string bytes = TinyModelBytes();
  const std::string digest = OpenBytes(bytes)->Digest();
  EXPECT_EQ(digest.size(), 32u);
  EXPECT_EQ(digest.find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_EQ(OpenBytes(TinyModelBytes())->Digest(), digest);

  TinyModelOptions other;
  other.seed = 2;
  const std::string other_bytes = TinyModelBytes(other);
  EXPECT_NE(OpenBytes(other_bytes)->Digest(), digest);

  const std::string renamed = MakeTinyModel().AddString("general.author", "x").Bytes();
  EXPECT_NE(OpenBytes(renamed)->Digest(), digest);
}

TEST(GgufDigestTest, SeesBothEndsOfALargeTensor) {
  const auto digest = [](size_t changed) {
    std::string data(1 << 20, '\0');
    if (changed < data.size()) data[changed] = 1;
    const std::string bytes =
        GgufWriter().AddTensor("t", TensorType::kF16, {1 << 19}, data).Bytes();
    return OpenBytes(bytes)->Digest();
  };
  const std::string unchanged = digest(1 << 20);
  EXPECT_NE(digest(0), unchanged);
  EXPECT_NE(digest((1 << 20) - 1), unchanged);
}

// The published model; `make model` fetches it.
TEST(GgufRealModelTest, HasTheNumbersOfSmolLm2) {
  if (access(kRealModel, R_OK) != 0) GTEST_SKIP() << kRealModel << " is absent; run: make model";
  auto opened = GgufFile::Open(kRealModel);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const GgufFile& file = **opened;
  EXPECT_EQ(file.file_bytes(), 98362432);
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(file.tensors().size(), 272u);
  EXPECT_EQ(file.GetString("general.architecture").value(), "llama");
  EXPECT_EQ(file.GetInt("llama.block_count").value(), 30);
  EXPECT_EQ(file.GetFloat("llama.rope.freq_base").value(), 100000.0);
  const auto tokens = file.GetStrings("tokenizer.ggml.tokens").value();
  ASSERT_EQ(tokens.size(), 49152u);
  EXPECT_EQ(tokens[1], "<|im_start|>");
  EXPECT_EQ(file.GetArraySize("tokenizer.ggml.merges").value(), 48900);
  const TensorInfo* embedding = file.FindTensor("token_embd.weight");
  ASSERT_NE(embedding, nullptr);
  EXPECT_EQ(embedding->type, TensorType::kQ8_0);
  EXPECT_THAT(embedding->shape, ElementsAre(576, 49152));
  EXPECT_EQ(embedding->num_bytes, 30081024);
}

}  // namespace
}  // namespace paceline::model
