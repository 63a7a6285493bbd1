// Who may include whom: reads every #include "…" of the tree and compares it with the allow-list
// below. The list is the architecture (docs/architecture.md); an edge is added there and here or
// not at all.
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace {

namespace fs = std::filesystem;

// Folder → folders that it may include. A name covers its subfolders. Every folder may include
// itself.
const std::map<std::string, std::vector<std::string>>& AllowList() {
  static const std::map<std::string, std::vector<std::string>> list = {
      {"proto", {"proto/support"}},
      {"proto/support", {}},
      {"model", {"proto/support"}},
      {"model/gguf", {"proto/support"}},
      {"model/config", {"model/gguf", "proto/support"}},
      {"model/tokenizer", {"model", "model/gguf", "proto/support"}},
      {"model/chat_template", {"model", "proto/support"}},
      {"kernels", {"kernels"}},
      {"worker/core", {"proto"}},
      {"worker/trace", {"proto/support"}},
      {"worker/metrics", {}},
      {"worker/device", {"kernels", "proto/support"}},
      {"worker/comm", {"proto/support"}},
      {"worker/cache", {"proto", "worker/core"}},
      {"worker/sched", {"proto/support", "worker/cache", "worker/core"}},
      {"worker/sample", {"kernels", "proto/support", "worker/core"}},
      {"worker/weights", {"kernels", "model", "proto/support", "worker/device"}},
      {"worker/layers",
       {"kernels", "proto/support", "worker/comm", "worker/trace", "worker/weights"}},
      {"worker/models",
       {"kernels",
        "model",
        "proto/support",
        "worker/comm",
        "worker/device",
        "worker/layers",
        "worker/sample",
        "worker/trace",
        "worker/weights"}},
      {"worker/runner",
       {"kernels",
        "model",
        "proto/support",
        "worker/cache",
        "worker/comm",
        "worker/core",
        "worker/device",
        "worker/models",
        "worker/sample",
        "worker/sched",
        "worker/trace",
        "worker/weights"}},
      {"worker/engine",
       {"model",
        "proto",
        "proto/support",
        "worker/cache",
        "worker/core",
        "worker/device",
        "worker/metrics",
        "worker/runner",
        "worker/sched",
        "worker/trace"}},
      {"worker/service", {"model", "proto", "worker/core", "worker/engine"}},
      {"router/core", {"proto"}},
      {"router/text", {"model", "proto", "router/core"}},
      {"router/tenancy", {"proto", "router/core"}},
      {"router/metrics", {"proto", "router/core"}},
      {"router/fleet", {"model", "proto", "router/core", "router/text"}},
      {"router/balance", {"proto", "router/core", "router/fleet"}},
      {"router/admission", {"model", "proto", "router/core", "router/text", "router/tenancy"}},
      {"router/dispatch",
       {"model",
        "proto",
        "router/admission",
        "router/balance",
        "router/core",
        "router/fleet",
        "router/metrics",
        "router/tenancy",
        "router/text"}},
      {"router/openai", {"proto", "router/core"}},
      {"router/http", {"proto", "router/core", "router/openai", "router/tenancy"}},
      {"router/grpc", {"proto", "router/core", "router/tenancy"}},
      {"cli", {"kernels", "model", "proto", "router", "worker"}},
  };
  return list;
}

bool Covers(const std::string& prefix, const std::string& folder) {
  return folder == prefix || absl::StartsWith(folder, prefix + "/");
}

// The longest listed folder that contains `folder`; empty when none does.
std::string RuleFor(const std::string& folder) {
  std::string best;
  for (const auto& [name, _] : AllowList()) {
    if (Covers(name, folder) && name.size() > best.size()) best = name;
  }
  return best;
}

struct Include {
  std::string file;
  std::string target;
};

std::vector<Include> ReadIncludes(const fs::path& root) {
  static const std::regex pattern(R"re(^\s*#\s*include\s*"([^"]+)")re");
  static const std::set<std::string> tops = {
      "proto", "model", "kernels", "worker", "router", "cli"};
  std::vector<Include> includes;
  for (const std::string& top : tops) {
    if (!fs::exists(root / top)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root / top)) {
      const std::string extension = entry.path().extension();
      if (extension != ".h" && extension != ".cc" && extension != ".cu" && extension != ".cuh") {
        continue;
      }
      std::ifstream in(entry.path());
      for (std::string line; std::getline(in, line);) {
        std::smatch match;
        if (!std::regex_search(line, match, pattern)) continue;
        const std::string target = match[1];
        const std::string target_top = target.substr(0, target.find('/'));
        if (tops.contains(target_top) || target_top == "tests") {
          includes.push_back({fs::relative(entry.path(), root), target});
        }
      }
    }
  }
  return includes;
}

std::vector<std::string> Violations(const std::vector<Include>& includes) {
  std::vector<std::string> violations;
  for (const auto& [file, target] : includes) {
    const std::string from = fs::path(file).parent_path();
    const std::string to = fs::path(target).parent_path();
    if (from == to || RuleFor(from) == RuleFor(to)) continue;
    const std::string rule = RuleFor(from);
    bool allowed = false;
    if (!rule.empty()) {
      for (const std::string& may : AllowList().at(rule)) allowed = allowed || Covers(may, to);
    }
    if (!allowed) violations.push_back(absl::StrCat(file, " includes ", target));
  }
  return violations;
}

TEST(LayeringTest, EveryIncludeIsAllowed) {
  const std::vector<Include> includes = ReadIncludes(PACELINE_SOURCE_DIR);
  ASSERT_GT(includes.size(), 100U) << "the sources were not found";
  for (const std::string& violation : Violations(includes)) ADD_FAILURE() << violation;
}

TEST(LayeringTest, SeesAForbiddenEdge) {
  EXPECT_EQ(Violations({{"worker/cache/x.h", "worker/engine/engine.h"}}).size(), 1U);
  EXPECT_EQ(Violations({{"kernels/gemm/x.cc", "worker/core/request.h"}}).size(), 1U);
  EXPECT_EQ(Violations({{"model/gguf/x.cc", "tests/fakes/gguf_writer.h"}}).size(), 1U);
  EXPECT_EQ(Violations({{"worker/engine/x.cc", "worker/sched/scheduler.h"}}).size(), 0U);
}

}  // namespace
