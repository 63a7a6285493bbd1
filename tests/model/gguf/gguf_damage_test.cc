// Files that were sound once: cut at every place, with flipped bits, and how much memory a file can
// make the reader ask for.
#include <algorithm>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "model/gguf/gguf_file.h"
#include "tests/fakes/gguf_writer.h"
#include "tests/fakes/tiny_model.h"
#include "tests/model/gguf/counting_new.h"

namespace paceline::model {
namespace {

// An exactly sized heap copy, so that a read past the end is one that a sanitizer sees.
absl::StatusOr<std::unique_ptr<GgufFile>> OpenCopy(const std::vector<char>& bytes) {
  return GgufFile::FromBytes(std::string_view(bytes.data(), bytes.size()));
}

std::vector<char> Prefix(const std::string& bytes, size_t size) {
  std::vector<char> prefix(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(size));
  prefix.shrink_to_fit();
  return prefix;
}

// Reads all that an open file offers.
void ReadAll(const GgufFile& file) {
  for (const GgufEntry& entry : file.entries()) {
    (void)file.GetInt(entry.key);
    (void)file.GetFloat(entry.key);
    (void)file.GetString(entry.key);
    (void)file.GetStrings(entry.key);
    (void)file.GetInt32s(entry.key);
    (void)file.GetFloats(entry.key);
  }
  std::vector<float> floats;
  for (const TensorInfo& tensor : file.tensors()) {
    floats.resize(tensor.num_elements);
    Dequantize(tensor.type, tensor.data, tensor.num_elements, floats.data());
  }
  EXPECT_EQ(file.Digest().size(), 32u);
}

TEST(GgufDamageTest, CutAtEveryByteOfTheHeaderIsRefused) {
  const GgufWriter writer = MakeTinyModel();
  const std::string bytes = writer.Bytes();
  for (size_t size = 0; size <= writer.HeaderBytes(); ++size) {
    const std::vector<char> cut = Prefix(bytes, size);
    const auto file = OpenCopy(cut);
    ASSERT_FALSE(file.ok()) << size;
    EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument) << size;
  }
}

TEST(GgufDamageTest, CutAtEvery4KiBIsRefused) {
  const std::string bytes = TinyModelBytes();
  for (size_t size = 0; size < bytes.size(); size += 4096) {
    EXPECT_FALSE(OpenCopy(Prefix(bytes, size)).ok()) << size;
  }
  EXPECT_FALSE(OpenCopy(Prefix(bytes, bytes.size() - 1)).ok());
  const std::vector<char> whole = Prefix(bytes, bytes.size());
  EXPECT_TRUE(OpenCopy(whole).ok());
}

TEST(GgufDamageTest, FlippedBitsInTheHeaderOpenOrAreRefused) {
  const GgufWriter writer = MakeTinyModel();
  const std::string sound = writer.Bytes();
  std::mt19937_64 random(20240613);
  int opened = 0;
  int refused = 0;
  for (int round = 0; round < 2000; ++round) {
    std::vector<char> bytes = Prefix(sound, sound.size());
    for (int flips = 1 + static_cast<int>(random() % 4); flips > 0; --flips) {
      bytes[random() % writer.HeaderBytes()] ^= static_cast<char>(1 << random() % 8);
    }
    const auto file = OpenCopy(bytes);
    if (file.ok()) {
      ReadAll(**file);
      ++opened;
    } else {
      ++refused;
    }
  }
  EXPECT_GT(opened, 100);  // most of the header is text
  EXPECT_GT(refused, 100);
}

// Every count and length of the header, one at a time, replaced by what overflows or over-asks.
TEST(GgufDamageTest, HostileNumbersAnywhereNeverMakeTheReaderAskForMuchMemory) {
  TinyModelOptions options;
  options.num_layers = 1;
  const GgufWriter writer = MakeTinyModel(options);
  const std::string sound = writer.Bytes();
  const uint64_t kNumbers[] = {0, 1, 0x7fffffff, 0x80000000, uint64_t{1} << 60, ~uint64_t{0}};
  size_t largest = 0;
  for (size_t at = 0; at + 8 <= writer.HeaderBytes(); ++at) {
    for (const uint64_t number : kNumbers) {
      std::string bytes = sound;
      bytes.replace(at, 8, reinterpret_cast<const char*>(&number), 8);
      ResetAllocatedBytes();
      const auto file = GgufFile::FromBytes(bytes);
      largest = std::max(largest, AllocatedBytes());
    }
  }
  // In total, not at one time, for a file of some 50 kB.
  EXPECT_LT(largest, 64u << 10);
}

TEST(GgufDamageTest, OpeningASoundFileAsksForLittleMemory) {
  const std::string bytes = TinyModelBytes();
  ResetAllocatedBytes();
  const auto file = GgufFile::FromBytes(bytes);
  ASSERT_TRUE(file.ok());
  EXPECT_LT(AllocatedBytes(), bytes.size() / 5);
}

// The worst that the limits allow: as many of the smallest entries as there may be.
TEST(GgufDamageTest, MemoryStaysWithinAFewTimesTheHeader) {
  GgufWriter writer;
  for (uint64_t i = 0; i < kMaxGgufEntries; ++i) {
    writer.AddRaw(std::string_view(reinterpret_cast<const char*>(&i), 3), 0, "v");
  }
  const std::string bytes = writer.Bytes();
  ResetAllocatedBytes();
  const auto file = GgufFile::FromBytes(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_LT(AllocatedBytes(), bytes.size() + (64u << 20));
}

}  // namespace
}  // namespace paceline::model
