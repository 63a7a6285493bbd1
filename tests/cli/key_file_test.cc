#include "cli/key_file.h"

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace paceline::cli {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

class KeyFileTest : public testing::Test {
 protected:
  KeyFileTest() : folder_(fs::path(testing::TempDir()) / "key_file_test") {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~KeyFileTest() override { fs::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& text) const {
    const fs::path path = folder_ / name;
    std::ofstream(path) << text;
    return path;
  }

  const fs::path folder_;
};

TEST_F(KeyFileTest, WithoutKeysEverybodyIsLetIn) {
  const auto keys = KeyFile::Open("--api-key", {}, "");
  ASSERT_TRUE(keys.ok());
  EXPECT_FALSE((*keys)->required());
  EXPECT_TRUE((*keys)->Authenticate("anything").has_value());
}

TEST_F(KeyFileTest, TakesLinesOfTheFileBesideThoseOfTheOption) {
  const auto keys =
      KeyFile::Open("--api-key", {"bob:one"}, Write("keys", "# people\nalice:two\n\nthree\n"));
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_TRUE((*keys)->required());
  EXPECT_EQ((*keys)->Authenticate("one"), "bob");
  EXPECT_EQ((*keys)->Authenticate("two"), "alice");
  EXPECT_TRUE((*keys)->Authenticate("three").has_value());
  EXPECT_FALSE((*keys)->Authenticate("four").has_value());
}

TEST_F(KeyFileTest, AFileWithoutKeysOpensNothing) {
  for (const std::string& path : {Write("empty", ""), Write("comment", "# none\n")}) {
    const auto keys = KeyFile::Open("--api-key", {"given"}, path);
    EXPECT_EQ(keys.status().code(), absl::StatusCode::kInvalidArgument) << path;
    EXPECT_THAT(std::string(keys.status().message()), HasSubstr("--api-key-file"));
  }
  EXPECT_FALSE(KeyFile::Open("--api-key", {}, folder_ / "missing").ok());
}

TEST_F(KeyFileTest, AnErrorDoesNotShowAKey) {
  const auto keys = KeyFile::Open("--admin-key", {}, Write("keys", "Bad Tenant:s3cret\n"));
  ASSERT_FALSE(keys.ok());
  EXPECT_THAT(std::string(keys.status().message()), Not(HasSubstr("s3cret")));
}

TEST_F(KeyFileTest, AChangedFileReplacesTheKeys) {
  const std::string path = Write("keys", "old\n");
  const auto keys = KeyFile::Open("--api-key", {}, path);
  ASSERT_TRUE(keys.ok());
  Write("keys", "newer\n");
  EXPECT_TRUE((*keys)->Refresh().ok());
  EXPECT_FALSE((*keys)->Authenticate("old").has_value());
  EXPECT_TRUE((*keys)->Authenticate("newer").has_value());
}

// How the files of a mounted Kubernetes secret change.
TEST_F(KeyFileTest, FollowsASymbolicLinkThatIsTurned) {
  for (const char* version : {"v1", "v2"}) {
    fs::create_directory(folder_ / version);
    Write(std::string(version) + "/keys", std::string(version) + "key\n");
  }
  fs::create_directory_symlink("v1", folder_ / "data");
  const auto keys = KeyFile::Open("--api-key", {}, folder_ / "data" / "keys");
  ASSERT_TRUE(keys.ok());
  EXPECT_TRUE((*keys)->Authenticate("v1key").has_value());
  fs::create_directory_symlink("v2", folder_ / "data_new");
  fs::rename(folder_ / "data_new", folder_ / "data");
  EXPECT_TRUE((*keys)->Refresh().ok());
  EXPECT_FALSE((*keys)->Authenticate("v1key").has_value());
  EXPECT_TRUE((*keys)->Authenticate("v2key").has_value());
}

TEST_F(KeyFileTest, ABadFileKeepsTheOldKeys) {
  const std::string path = Write("keys", "old\n");
  const auto keys = KeyFile::Open("--api-key", {}, path);
  ASSERT_TRUE(keys.ok());
  for (const char* text : {"", "two words\n", "Bad Tenant:x\n"}) {
    Write("keys", text);
    EXPECT_FALSE((*keys)->Refresh().ok());
    EXPECT_TRUE((*keys)->required()) << text;
    EXPECT_TRUE((*keys)->Authenticate("old").has_value()) << text;
  }
  fs::remove(path);
  EXPECT_FALSE((*keys)->Refresh().ok());
  EXPECT_TRUE((*keys)->Authenticate("old").has_value());
}

}  // namespace
}  // namespace paceline::cli
