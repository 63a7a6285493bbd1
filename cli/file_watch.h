// The files that take effect while a process runs: keys, tokens, certificates, the configuration.
// They are read again when they change, or all at once on SIGHUP; what cannot be used is logged,
// and what was there before goes on. Owned by the process; its main thread, MetricsText excepted.
#ifndef PACELINE_CLI_FILE_WATCH_H_
#define PACELINE_CLI_FILE_WATCH_H_

#include <csignal>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/registry.h"

namespace paceline::cli {

class FileWatch {
 public:
  // FailedPrecondition: some of it is in force, and the message says what needs a restart. Other
  // errors: none of it is.
  using Read = std::function<absl::Status()>;

  // `metric_prefix`: "paceline_router" or "paceline_worker".
  explicit FileWatch(const std::string& metric_prefix);

  // Calls `read` now, returning its status, and whenever one of `paths` changes: also when a
  // symbolic link above it is turned, as the kubelet does. `name` is for the log and for metrics.
  // Without paths (empty ones do not count) this does nothing.
  absl::Status Add(std::string name, std::vector<std::string> paths, Read read);

  // Reads what has changed since. To be called every second or so.
  void Poll();
  // Reads everything.
  void ReadAll();
  // What to do after waiting for `signal`: SIGHUP reads everything.
  void Follow(std::optional<int> signal) { signal == SIGHUP ? ReadAll() : Poll(); }

  // When the certificate of the files `name` ends, Unix time; 0: never.
  void SetExpiry(const std::string& name, int64_t unix_s);

  // In Prometheus's text format. Any thread.
  std::string MetricsText() const;

 private:
  struct Group {
    std::string name;
    std::vector<std::string> paths;
    Read read;
    std::string version;
  };

  absl::Status ReadGroup(Group& group);

  std::vector<Group> groups_;
  prometheus::Registry registry_;
  prometheus::Family<prometheus::Counter>& reads_;
  prometheus::Family<prometheus::Gauge>& is_current_;
  prometheus::Family<prometheus::Gauge>& read_time_;
  prometheus::Family<prometheus::Gauge>& expiry_;
};

}  // namespace paceline::cli

#endif  // PACELINE_CLI_FILE_WATCH_H_
