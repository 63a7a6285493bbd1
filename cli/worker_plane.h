// What routers and workers show each other: certificates and a token, both from files that may
// change. Owned by the process; what it hands out may be used from any thread and not after it.
#ifndef PACELINE_CLI_WORKER_PLANE_H_
#define PACELINE_CLI_WORKER_PLANE_H_

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/file_watch.h"
#include "cli/key_file.h"
#include "cli/options.h"
#include "proto/support/tls.h"
#include "router/fleet/grpc_worker_link.h"

namespace paceline::cli {

class WorkerPlane {
 public:
  // InvalidArgument names the option at fault.
  static absl::StatusOr<std::unique_ptr<WorkerPlane>> Open(const WorkerPlaneOptions& options,
                                                           FileWatch& files);

  // For a router. InvalidArgument: certificates without authorities to check workers by.
  absl::StatusOr<router::GrpcLinkOptions> LinkOptions() const;

  // For a worker. InvalidArgument: authorities, or `operator_tls`, without a certificate.
  absl::Status CheckServes(bool operator_tls) const;
  const TlsSource* tls() const { return tls_.get(); }
  // Whether a token is one of the file's; null when there is no file.
  std::function<bool(std::string_view)> Admits() const;

 private:
  explicit WorkerPlane(const WorkerPlaneOptions& options) : options_(options) {}

  absl::Status Refresh();
  std::string FirstToken() const;

  const WorkerPlaneOptions options_;
  std::unique_ptr<TlsSource> tls_;   // null: none
  std::unique_ptr<KeyFile> tokens_;  // without keys when there is no file
  mutable std::mutex mutex_;
  std::string first_token_;  // guarded by mutex_
};

// The tokens of --worker-token-file; none when `path` is empty. InvalidArgument names the option.
absl::StatusOr<std::vector<std::string>> ReadTokens(const std::string& path);

}  // namespace paceline::cli

#endif  // PACELINE_CLI_WORKER_PLANE_H_
