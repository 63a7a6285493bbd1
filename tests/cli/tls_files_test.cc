#include "cli/tls_files.h"

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/certificates.h"
#include "tests/fakes/log_capture.h"

namespace paceline::cli {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class TlsFilesTest : public testing::Test {
 protected:
  TlsFilesTest() : folder_(fs::path(testing::TempDir()) / "tls_files_test") {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    Write(authority_.Sign("server"));
  }
  ~TlsFilesTest() override { fs::remove_all(folder_); }

  std::string WriteFile(const std::string& name, const std::string& text) const {
    const fs::path path = folder_ / name;
    std::ofstream(path) << text;
    return path;
  }
  void Write(const TestIdentity& identity) {
    options_.cert_file = WriteFile("tls.crt", identity.certificate);
    options_.key_file = WriteFile("tls.key", identity.key);
  }
  std::string Refusal() const {
    const auto material = ReadTlsFiles(options_, "tls");
    EXPECT_EQ(material.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(material.status().message());
  }

  const TestAuthority authority_{"authority"};
  const fs::path folder_;
  TlsOptions options_;
};

TEST_F(TlsFilesTest, EveryErrorNamesTheOptionAndTheFile) {
  TlsOptions good = options_;
  options_.key_file.clear();
  EXPECT_EQ(Refusal(), "--tls-cert-file: needs --tls-key-file");
  options_ = {.key_file = good.key_file};
  EXPECT_EQ(Refusal(), "--tls-key-file: needs --tls-cert-file");
  options_ = good;
  options_.cert_file = folder_ / "none.crt";
  EXPECT_THAT(Refusal(),
              AllOf(HasSubstr("--tls-cert-file: cannot read"), HasSubstr("none.crt: No")));
  options_ = good;
  options_.key_file = folder_;
  EXPECT_THAT(Refusal(), HasSubstr("--tls-key-file: cannot read"));
  options_.key_file = WriteFile("empty", "");
  EXPECT_THAT(Refusal(), AllOf(HasSubstr("--tls-key-file"), HasSubstr("is empty")));
  options_.key_file = WriteFile("other.key", authority_.Sign("other").key);
  EXPECT_THAT(Refusal(),
              AllOf(HasSubstr("--tls-cert-file"),
                    HasSubstr("other.key"),
                    HasSubstr("the key is not that of the certificate")));
  options_ = good;
  options_.ca_file = WriteFile("ca.crt", "nonsense");
  EXPECT_THAT(Refusal(), AllOf(HasSubstr("--tls-ca-file"), HasSubstr("ca.crt")));
}

TEST_F(TlsFilesTest, ABadPairKeepsTheOldOne) {
  FileWatch files("paceline_test");
  auto source = FollowTlsFiles(options_, "tls", files);
  ASSERT_TRUE(source.ok()) << source.status();
  const auto first = (*source)->Get();

  const TestIdentity next = authority_.Sign("next");
  WriteFile("tls.crt", next.certificate);  // and not yet its key
  const LogCapture log;
  files.Poll();
  EXPECT_EQ((*source)->Get(), first);
  EXPECT_THAT(log.text(), AllOf(HasSubstr("error"), HasSubstr("not that of the certificate")));
  EXPECT_THAT(log.text(), Not(HasSubstr(next.key.substr(30, 20))));

  WriteFile("tls.key", next.key);
  files.Poll();
  EXPECT_EQ((*source)->Get()->certificates, next.certificate);
}

TEST_F(TlsFilesTest, WithoutFilesThereIsNoTls) {
  FileWatch files("paceline_test");
  const auto source = FollowTlsFiles({}, "tls", files);
  ASSERT_TRUE(source.ok());
  EXPECT_EQ(*source, nullptr);
}

TEST_F(TlsFilesTest, AnExpiredCertificateIsAWarning) {
  Write(authority_.Sign("server", -60));
  FileWatch files("paceline_test");
  const LogCapture log;
  ASSERT_TRUE(FollowTlsFiles(options_, "tls", files).ok());
  EXPECT_THAT(log.text(), HasSubstr("warning --tls-cert-file: the certificate has expired at"));
}

}  // namespace
}  // namespace paceline::cli
