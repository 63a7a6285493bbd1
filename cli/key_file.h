// The keys of a server: those of an option, and those of a file that is read again when it changes.
// Owned by the process; Authenticate from any thread.
#ifndef PACELINE_CLI_KEY_FILE_H_
#define PACELINE_CLI_KEY_FILE_H_

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
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
  ~KeyFile();

  // Whether callers need a key. Never changes: a file that has lost its keys keeps the old ones.
  bool required() const;

  std::optional<std::string> Authenticate(std::string_view bearer) const;

  // Reads the file again if it is another one than last time; a thread does so every 2 s. What
  // cannot be used is logged, and the old keys stay.
  void Refresh();

 private:
  KeyFile(std::string option, std::vector<std::string> specs, std::string path);

  absl::StatusOr<router::ApiKeys> Read() const;
  // Changes when the file does: also when a symbolic link above it is turned to another folder.
  std::string Version() const;
  void Watch();

  const std::string option_;
  const std::vector<std::string> specs_;
  const std::string path_;
  std::string version_;  // Open, then the watching thread

  mutable std::mutex mutex_;
  std::shared_ptr<const router::ApiKeys> keys_;  // guarded by mutex_
  bool is_stopping_ = false;                     // guarded by mutex_
  std::condition_variable stop_;
  std::thread watcher_;
};

}  // namespace paceline::cli

#endif  // PACELINE_CLI_KEY_FILE_H_
