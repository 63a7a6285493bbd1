#include "cli/file_watch.h"

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/log_capture.h"

namespace paceline::cli {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

class FileWatchTest : public testing::Test {
 protected:
  FileWatchTest() : folder_(fs::path(testing::TempDir()) / "file_watch_test") {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~FileWatchTest() override { fs::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& text) const {
    const fs::path path = folder_ / name;
    std::ofstream(path) << text;
    return path;
  }
  absl::Status Add(std::vector<std::string> paths) {
    return files_.Add("thing", std::move(paths), [this] {
      ++reads_;
      return result_;
    });
  }

  const fs::path folder_;
  FileWatch files_{"paceline_test"};
  int reads_ = 0;
  absl::Status result_;
};

TEST_F(FileWatchTest, ReadsAtFirstAndThenOnlyWhatChanges) {
  const std::string path = Write("a", "1");
  ASSERT_TRUE(Add({path}).ok());
  EXPECT_EQ(reads_, 1);
  files_.Poll();
  EXPECT_EQ(reads_, 1);
  Write("a", "22");
  files_.Poll();
  files_.Poll();
  EXPECT_EQ(reads_, 2);
}

TEST_F(FileWatchTest, OneOfSeveralFilesIsEnough) {
  const std::string a = Write("a", "1");
  ASSERT_TRUE(Add({a, "", Write("b", "1")}).ok());
  Write("b", "22");
  files_.Poll();
  EXPECT_EQ(reads_, 2);
}

TEST_F(FileWatchTest, WithoutFilesThereIsNothingToRead) {
  ASSERT_TRUE(Add({"", ""}).ok());
  files_.ReadAll();
  EXPECT_EQ(reads_, 0);
}

// How the files of a mounted Kubernetes secret change.
TEST_F(FileWatchTest, FollowsASymbolicLinkThatIsTurned) {
  for (const char* version : {"v1", "v2"}) {
    fs::create_directory(folder_ / version);
    Write(absl::StrCat(version, "/a"), version);
  }
  fs::create_directory_symlink("v1", folder_ / "data");
  ASSERT_TRUE(Add({folder_ / "data" / "a"}).ok());
  fs::create_directory_symlink("v2", folder_ / "data_new");
  fs::rename(folder_ / "data_new", folder_ / "data");
  files_.Poll();
  EXPECT_EQ(reads_, 2);
}

TEST_F(FileWatchTest, ReadAllReadsWhatHasNotChanged) {
  ASSERT_TRUE(Add({Write("a", "1")}).ok());
  files_.ReadAll();
  EXPECT_EQ(reads_, 2);
}

TEST_F(FileWatchTest, WhatCannotBeUsedIsLoggedOnceAndCounted) {
  ASSERT_TRUE(Add({Write("a", "1")}).ok());
  const LogCapture log;
  result_ = absl::InvalidArgumentError("--thing: no good");
  Write("a", "22");
  files_.Poll();
  files_.Poll();
  EXPECT_THAT(log.text(), HasSubstr("error --thing: no good; what was there before goes on"));
  EXPECT_EQ(log.text().find("no good"), log.text().rfind("no good"));
  EXPECT_THAT(files_.MetricsText(), HasSubstr("paceline_test_file_is_current{file=\"thing\"} 0"));
  EXPECT_THAT(files_.MetricsText(),
              HasSubstr("paceline_test_file_reads_total{file=\"thing\",result=\"error\"} 1"));
  result_ = absl::OkStatus();
  Write("a", "333");
  files_.Poll();
  EXPECT_THAT(files_.MetricsText(), HasSubstr("paceline_test_file_is_current{file=\"thing\"} 1"));
}

TEST_F(FileWatchTest, AFileThatIsGoneIsReadSoThatItIsNoticed) {
  const std::string path = Write("a", "1");
  ASSERT_TRUE(Add({path}).ok());
  fs::remove(path);
  files_.Poll();
  EXPECT_EQ(reads_, 2);
}

TEST_F(FileWatchTest, TheFirstReadingsErrorIsReturned) {
  result_ = absl::InvalidArgumentError("bad");
  EXPECT_EQ(Add({Write("a", "1")}), result_);
}

TEST_F(FileWatchTest, ShowsWhenACertificateEnds) {
  EXPECT_THAT(files_.MetricsText(), Not(HasSubstr("certificate_expiry")));
  files_.SetExpiry("tls", 0);
  EXPECT_THAT(files_.MetricsText(), Not(HasSubstr("certificate_expiry")));
  files_.SetExpiry("tls", 1'800'000'000);
  EXPECT_THAT(
      files_.MetricsText(),
      HasSubstr("paceline_test_certificate_expiry_timestamp_seconds{file=\"tls\"} 18000000"));
}

}  // namespace
}  // namespace paceline::cli
