// The keys of a server: those of an option, and those of a file, which FileWatch has read again
// when it changes. Owned by the process; Authenticate from any thread, the rest from the main one.
#ifndef PACELINE_CLI_KEY_FILE_H_
#define PACELINE_CLI_KEY_FILE_H_

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "router/tenancy/api_keys.h"

namespace paceline::cli {

class KeyFile {
 public:
  // `option`: "--api-key" or "--admin-key", for messages; `specs`: its values. `path`: a file of
  // such values, one a line, lines that begin with # excepted; empty: none. InvalidArgument, naming
  // the option and no key, when a value is malformed, or the file cannot be read or has no key.
  static absl::StatusOr<std::unique_ptr<KeyFile>> Open(std::string option,
                                                       std::vector<std::string> specs,
                                                       std::string path);

  // Whether callers need a key. Never changes: a file that has lost its keys keeps the old ones.
  bool required() const;

  std::optional<std::string> Authenticate(std::string_view bearer) const;

  // Takes the keys of `specs` and of the file as it is now. InvalidArgument, as Open, when they
  // cannot be used, or none are left, or there were none: then nothing changes.
  absl::Status Refresh(std::vector<std::string> specs);
  // Whether Refresh(specs) would do.
  absl::Status Check(const std::vector<std::string>& specs) const;
  absl::Status Refresh() { return Refresh(specs_); }

 private:
  KeyFile(std::string option, std::vector<std::string> specs, std::string path);

  absl::StatusOr<router::ApiKeys> Read(std::vector<std::string> specs) const;
  absl::StatusOr<router::ApiKeys> ReadAgain(const std::vector<std::string>& specs) const;

  const std::string option_;
  std::vector<std::string> specs_;
  const std::string path_;

  mutable std::mutex mutex_;
  std::shared_ptr<const router::ApiKeys> keys_;  // guarded by mutex_
};

}  // namespace paceline::cli

#endif  // PACELINE_CLI_KEY_FILE_H_
