#include "worker/device/cgroup.h"

#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace paceline::worker {
namespace {

bool IsFolder(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_directory(path, error);
}

// mount + path, and its parents down to the mount; only what exists.
std::vector<std::string> Chain(const std::string& mount, std::string path) {
  std::vector<std::string> folders;
  while (path.size() > 1) {
    if (IsFolder(mount + path)) folders.push_back(mount + path);
    path.erase(path.rfind('/'));
  }
  if (IsFolder(mount)) folders.push_back(mount);
  return folders;
}

}  // namespace

std::optional<std::string> ReadSmallFile(const std::string& path) {
  std::ifstream in(path);
  std::ostringstream text;
  if (!in || !(text << in.rdbuf())) return std::nullopt;
  return text.str();
}

std::optional<int64_t> ReadInteger(const std::string& path) {
  const std::optional<std::string> text = ReadSmallFile(path);
  int64_t value = 0;
  if (!text) return std::nullopt;
  const std::string first =
      std::string(absl::string_view(*text).substr(0, text->find_first_of(" \n")));
  if (!absl::SimpleAtoi(first, &value)) return std::nullopt;
  return value;
}

CgroupFolders FindCgroups(const std::string& root, std::string_view controller) {
  CgroupFolders folders;
  const std::string mount = absl::StrCat(root, "/sys/fs/cgroup");
  const absl::string_view wanted(controller.data(), controller.size());
  const std::string text = ReadSmallFile(absl::StrCat(root, "/proc/self/cgroup")).value_or("");
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3 || parts[2].empty() || parts[2][0] != '/') continue;
    if (parts[0] == "0" && parts[1].empty()) {
      folders.v2 = Chain(mount, parts[2]);
      continue;
    }
    for (absl::string_view name : absl::StrSplit(parts[1], ',')) {
      if (name != wanted) continue;
      folders.v1 = Chain(absl::StrCat(mount, "/", wanted), parts[2]);
    }
  }
  return folders;
}

}  // namespace paceline::worker
