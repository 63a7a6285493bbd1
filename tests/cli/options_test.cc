#include "cli/options.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "cli/config_file.h"
#include "cli/loaded_model.h"
#include "gtest/gtest.h"

namespace paceline::cli {
namespace {

TEST(OptionsTest, SizesHaveUnits) {
  EXPECT_EQ(ParseBytes("1048576"), 1048576);
  EXPECT_EQ(ParseBytes("512MiB"), int64_t{512} << 20);
  EXPECT_EQ(ParseBytes("2GB"), 2'000'000'000);
  EXPECT_EQ(ParseBytes("1.5g"), int64_t{3} << 29);
  for (const char* bad : {"", "MB", "-5", "5 MB", "5 parsecs", "1e3", "99999999999TB", "1.2.3"}) {
    EXPECT_LT(ParseBytes(bad), 0) << bad;
  }
}

TEST(OptionsTest, AModelIsNamedAfterItsFile) {
  EXPECT_EQ(ModelNameFromPath("models/SmolLM2-135M.Q4_1.gguf"), "SmolLM2-135M.Q4_1");
  EXPECT_EQ(ModelNameFromPath("plain"), "plain");
}

class ParseTest : public testing::Test {
 protected:
  ParseTest() {
    AddRouterOptions(*app_.add_subcommand("router"), options_);
    AddConfigOption(*app_.get_subcommand("router"), config_);
  }
  // As main() does it: the sub-command first.
  void Parse(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "router");
    absl::StatusOr<std::vector<std::string>> all = WithConfigFile(std::move(arguments));
    if (!all.ok()) throw CLI::FileError(std::string(all.status().message()));
    std::reverse(all->begin(), all->end());
    app_.parse(*all);
  }
  std::string WriteConfig(const std::string& text) {
    const std::string path = testing::TempDir() + "paceline_options_test.yaml";
    std::ofstream(path) << text;
    return path;
  }
  CLI::App app_;
  RouterOptions options_;
  std::string config_;
};

TEST_F(ParseTest, YamlKeysAreLongOptionNames) {
  Parse(
      {"--config", WriteConfig("port: 1234\nhost: 10.0.0.1\napi-key: [a, b]\nbalance: session\n")});
  EXPECT_EQ(options_.port, 1234);
  EXPECT_EQ(options_.host, "10.0.0.1");
  EXPECT_EQ(options_.api_keys, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(options_.balance, "session");
}

TEST_F(ParseTest, TheCommandLineWinsOverTheFile) {
  Parse({"--port", "99", "--config", WriteConfig("port: 1234\n")});
  EXPECT_EQ(options_.port, 99);
}

TEST_F(ParseTest, TheEnvironmentWinsOverTheFile) {
  setenv("PACELINE_GRPC_PORT", "4321", 1);
  Parse({"--config", WriteConfig("grpc-port: 1\nport: 2\n")});
  unsetenv("PACELINE_GRPC_PORT");
  EXPECT_EQ(options_.grpc_port, 4321);
  EXPECT_EQ(options_.port, 2);
}

TEST_F(ParseTest, SwitchesTakeTrueAndFalse) {
  Parse({"--config", WriteConfig("allow-unknown-fields: true\n")});
  EXPECT_TRUE(options_.allow_unknown_fields);
}

TEST_F(ParseTest, AMissingFileIsAnError) {
  EXPECT_THROW(Parse({"--config", "/nonexistent.yaml"}), CLI::ParseError);
}

TEST_F(ParseTest, UnknownKeysAreErrors) {
  EXPECT_THROW(Parse({"--config", WriteConfig("prot: 1234\n")}), CLI::ParseError);
}

TEST_F(ParseTest, BrokenYamlIsAnError) {
  EXPECT_THROW(Parse({"--config", WriteConfig("port: [1\n")}), CLI::ParseError);
  EXPECT_THROW(Parse({"--config", WriteConfig("- 1\n")}), CLI::ParseError);
  EXPECT_THROW(Parse({"--config", WriteConfig("port: {a: 1}\n")}), CLI::ParseError);
}

TEST_F(ParseTest, ValuesOutOfRangeAreErrors) {
  EXPECT_THROW(Parse({"--port", "70000"}), CLI::ParseError);
  EXPECT_THROW(Parse({"--balance", "magic"}), CLI::ParseError);
  EXPECT_THROW(Parse({"--max-queued-requests", "0"}), CLI::ParseError);
}

TEST_F(ParseTest, EnvironmentVariablesCount) {
  setenv("PACELINE_GRPC_PORT", "4321", 1);
  Parse({});
  unsetenv("PACELINE_GRPC_PORT");
  EXPECT_EQ(options_.grpc_port, 4321);
}

}  // namespace
}  // namespace paceline::cli
