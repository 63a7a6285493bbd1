#include "cli/command_line.h"

#include <filesystem>
#include <fstream>

#include "cli/router_core.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace paceline::cli {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

class CommandLineTest : public testing::Test {
 protected:
  CommandLineTest() : path_(fs::path(testing::TempDir()) / "command_line_test.yaml") {}
  ~CommandLineTest() override { fs::remove(path_); }

  absl::StatusOr<CommandLine<RouterOptions>> Parse(const std::string& file,
                                                   std::vector<std::string> more = {}) const {
    std::ofstream(path_) << file;
    std::vector<std::string> arguments = {"router", "--config", path_};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return ParseRouter(std::move(arguments));
  }
  std::string Refusal(const std::string& file) const {
    const auto line = Parse(file);
    EXPECT_EQ(line.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(line.status().message());
  }

  const fs::path path_;
};

TEST_F(CommandLineTest, TakesFileAndCommandLineWhichGoesFirst) {
  const auto line = Parse("workers: [a:1, b:2]\nbalance: session\nmax-queued-requests: 7\n",
                          {"--balance", "round_robin"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_THAT(line->options.workers, ElementsAre("a:1", "b:2"));
  EXPECT_EQ(line->options.balance, "round_robin");
  EXPECT_EQ(line->options.max_queued_requests, 7);
  EXPECT_EQ(line->config, path_);
}

TEST_F(CommandLineTest, SaysWhatIsWrongAndShowsNoKey) {
  EXPECT_THAT(Refusal("api-keys: s3cret\n"),
              AllOf(HasSubstr("unknown: --api-keys"), Not(HasSubstr("s3cret"))));
  EXPECT_THAT(Refusal("port: 70000\n"), HasSubstr("port"));
  EXPECT_THAT(Refusal("a: [\n"), HasSubstr("not valid YAML at line"));
}

TEST_F(CommandLineTest, NamesWhatHasChanged) {
  const auto before = Parse("balance: session\nport: 1\napi-key: [a, b]\n");
  const auto same = Parse("port: 1\nbalance: session\napi-key: [a, b]\n");
  const auto after = Parse("balance: session\nhost: '::'\napi-key: [a, c]\n");
  ASSERT_TRUE(before.ok() && same.ok() && after.ok());
  EXPECT_THAT(ChangedSettings(before->settings, same->settings), testing::IsEmpty());
  EXPECT_THAT(ChangedSettings(before->settings, after->settings),
              ElementsAre("api-key", "host", "port"));
}

TEST_F(CommandLineTest, SaysHowLongARunningStreamWaitsForAReplica) {
  const auto wait_ms = [](std::vector<std::string> more) -> int64_t {
    std::vector<std::string> arguments = {"router", "--workers", "a:1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const auto line = ParseRouter(std::move(arguments));
    return line.ok() ? DispatchOptionsOf(line->options)->failover_wait_ms : -1;
  };
  EXPECT_EQ(wait_ms({}), router::DispatchOptions().failover_wait_ms);
  EXPECT_EQ(wait_ms({"--failover-wait-seconds", "60"}), 60'000);
  EXPECT_EQ(wait_ms({"--failover-wait-seconds", "-1"}), -1);
}

TEST_F(CommandLineTest, AWorkerHasItsOwn) {
  const auto line = ParseWorker({"worker", "--model", "m.gguf", "--drain-seconds", "3"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->options.drain_seconds, 3);
  EXPECT_EQ(line->config, "");
}

}  // namespace
}  // namespace paceline::cli
