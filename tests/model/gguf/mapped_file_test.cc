#include "model/gguf/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <fstream>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace paceline::model {
namespace {

constexpr int64_t kPage = 4096;

class MappedFileTest : public testing::Test {
 protected:
  void SetUp() override { Write(std::string(4 * kPage, 'x')); }
  void TearDown() override { std::remove(path_.c_str()); }

  void Write(const std::string& bytes) { std::ofstream(path_, std::ios::binary) << bytes; }

  const std::string path_ = testing::TempDir() + "mapped_file_" + std::to_string(getpid());
};
using MappedFileDeathTest = MappedFileTest;

// The byte is read, whatever the compiler thinks of it.
char Read(const char* at) { return *const_cast<const volatile char*>(at); }

TEST_F(MappedFileTest, HasTheBytesOfTheFile) {
  Write("some bytes");
  const auto file = MappedFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->bytes(), "some bytes");
}

TEST_F(MappedFileTest, MovesToANewOwner) {
  auto file = MappedFile::Open(path_);
  ASSERT_TRUE(file.ok());
  const MappedFile owner = *std::move(file);
  EXPECT_EQ(owner.bytes().size(), 4 * kPage);
  EXPECT_EQ(Read(owner.bytes().data()), 'x');
}

TEST_F(MappedFileTest, AMissingAndAnEmptyFileAndAFolderAreErrors) {
  EXPECT_EQ(MappedFile::Open(path_ + ".not").status().code(), absl::StatusCode::kNotFound);
  Write("");
  EXPECT_EQ(MappedFile::Open(path_).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MappedFile::Open(testing::TempDir()).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(MappedFileDeathTest, AFileThatIsCutEndsTheProcessWithItsName) {
  std::vector<MappedFile> others;  // the place of one that is gone is used again
  for (int i = 0; i < 7; ++i) others.push_back(*MappedFile::Open(path_));
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(MappedFile::Open(path_).ok());
  const auto file = MappedFile::Open(path_);
  ASSERT_TRUE(file.ok());
  ASSERT_EQ(truncate(path_.c_str(), kPage), 0);
  EXPECT_EQ(Read(file->bytes().data()), 'x');
  EXPECT_EXIT(Read(file->bytes().data() + 2 * kPage),
              testing::ExitedWithCode(1),
              path_ + ": the file was cut short");
}

TEST_F(MappedFileDeathTest, OtherBusErrorsKeepTheirDefault) {
  const auto file = MappedFile::Open(path_);
  ASSERT_TRUE(file.ok());
  const std::string other = path_ + ".other";
  std::ofstream(other, std::ios::binary) << std::string(2 * kPage, 'y');
  const int fd = open(other.c_str(), O_RDONLY);
  ASSERT_GE(fd, 0);
  const auto* const bytes =
      static_cast<const char*>(mmap(nullptr, 2 * kPage, PROT_READ, MAP_PRIVATE, fd, 0));
  ASSERT_NE(bytes, MAP_FAILED);
  ASSERT_EQ(truncate(other.c_str(), 0), 0);
  EXPECT_EXIT(Read(bytes), testing::KilledBySignal(SIGBUS), "");
  close(fd);
  std::remove(other.c_str());
}

}  // namespace
}  // namespace paceline::model
