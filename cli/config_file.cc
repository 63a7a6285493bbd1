#include "cli/config_file.h"

#include <algorithm>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/support/status_macros.h"
#include "yaml-cpp/yaml.h"

namespace paceline::cli {
namespace {

// The value of the last --config; empty: none.
std::string ConfigPath(const std::vector<std::string>& arguments) {
  const char* from_environment = std::getenv("PACELINE_CONFIG");
  std::string path = from_environment == nullptr ? "" : from_environment;
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "--config" && i + 1 < arguments.size()) path = arguments[i + 1];
    if (absl::StartsWith(arguments[i], "--config=")) path = arguments[i].substr(9);
  }
  return path;
}

bool IsGiven(const std::vector<std::string>& arguments, const std::string& name) {
  const std::string option = absl::StrCat("--", name);
  const std::string negated = absl::StrCat("--no-", name);
  return std::any_of(arguments.begin(), arguments.end(), [&](const std::string& argument) {
    return argument == option || argument == negated ||
           absl::StartsWith(argument, absl::StrCat(option, "="));
  });
}

absl::Status AddEntry(const std::string& path,
                      const std::string& name,
                      const YAML::Node& value,
                      std::vector<std::string>& out) {
  if (value.IsScalar()) {
    out.push_back(absl::StrCat("--", name, "=", value.as<std::string>()));
    return absl::OkStatus();
  }
  if (value.IsSequence()) {
    for (const YAML::Node& item : value) {
      if (!item.IsScalar()) break;
      out.push_back(absl::StrCat("--", name, "=", item.as<std::string>()));
    }
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--config ", path, ": '", name, "' must be a value or a list of values"));
}

}  // namespace

std::vector<std::string> WithEnvironment(std::vector<std::string> arguments,
                                         const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    const char* const value = std::getenv(EnvironmentName(name).c_str());
    if (value == nullptr || IsGiven(arguments, name)) continue;
    arguments.push_back(absl::StrCat("--", name, "=", value));
  }
  return arguments;
}

std::string EnvironmentName(const std::string& long_name) {
  std::string name = absl::StrCat("PACELINE_", absl::AsciiStrToUpper(long_name));
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

absl::StatusOr<std::vector<std::string>> WithConfigFile(std::vector<std::string> arguments) {
  const std::string path = ConfigPath(arguments);
  if (path.empty() || arguments.empty()) return arguments;
  std::vector<std::string> added;
  try {
    const YAML::Node root = YAML::LoadFile(path);
    if (!root.IsMap() && !root.IsNull()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--config ", path, ": the file must be a map of options"));
    }
    for (const auto& pair : root) {
      const std::string name = pair.first.as<std::string>();
      if (IsGiven(arguments, name) || std::getenv(EnvironmentName(name).c_str()) != nullptr) {
        continue;
      }
      RETURN_IF_ERROR(AddEntry(path, name, pair.second, added));
    }
  } catch (const YAML::BadFile&) {
    return absl::InvalidArgumentError(absl::StrCat("--config ", path, ": cannot be read"));
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("--config ", path, ": not valid YAML at line ", error.mark.line + 1));
  }
  arguments.insert(arguments.begin() + 1, added.begin(), added.end());
  return arguments;
}

}  // namespace paceline::cli
