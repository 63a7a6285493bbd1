// A router's listeners around its core: HTTP, gRPC, operator port, Admin. Owned by the command;
// Start and Stop from one thread.
#ifndef PACELINE_CLI_ROUTER_SERVERS_H_
#define PACELINE_CLI_ROUTER_SERVERS_H_

#include <chrono>
#include <memory>

#include "absl/status/statusor.h"
#include "cli/file_watch.h"
#include "cli/key_file.h"
#include "cli/options.h"
#include "cli/otlp_exporter.h"
#include "cli/router_core.h"
#include "proto/support/tls.h"
#include "router/grpc/admin_server.h"
#include "router/grpc/grpc_server.h"
#include "router/http/api_handler.h"
#include "router/http/http_server.h"
#include "router/http/operator_handler.h"

namespace paceline::cli {

class RouterServers {
 public:
  // Unavailable names the address that cannot be had;
  // InvalidArgument the option at fault. `core`, `files`, which follows keys and certificates, and
  // `exporter`, whose metrics are shown too and which may be null, must outlive the servers.
  static absl::StatusOr<std::unique_ptr<RouterServers>> Start(
      const RouterOptions& options,
      router::RouterCore& core,
      FileWatch& files,
      const OtlpExporter* exporter = nullptr);
  ~RouterServers();

  // Takes the keys that `options` gives, besides those of the files. InvalidArgument, and nothing
  // has changed: as KeyFile::Refresh.
  absl::Status SetKeys(const RouterOptions& options);

  // Refuses new work, lets what runs end within `grace`, then ends it with an error and closes.
  void Stop(std::chrono::milliseconds grace);

  int http_port() const { return http_->port(); }
  int grpc_port() const { return grpc_->port(); }
  int operator_port() const { return operator_->port(); }
  // -1: there is none.
  int admin_port() const { return admin_ == nullptr ? -1 : admin_->port(); }

 private:
  explicit RouterServers(router::RouterCore& core) : core_(core) {}

  absl::Status OpenFiles(const RouterOptions& options, FileWatch& files);
  absl::Status MakeAdmin(const RouterOptions& options);
  router::StatusSnapshot Status();

  router::RouterCore& core_;
  std::unique_ptr<KeyFile> keys_;
  std::unique_ptr<KeyFile> admin_keys_;
  std::unique_ptr<TlsSource> tls_;  // null: none
  int64_t started_ns_ = 0;
  std::unique_ptr<router::ApiHandler> api_handler_;
  std::unique_ptr<router::OperatorHandler> operator_handler_;
  std::unique_ptr<router::HttpServer> http_;
  std::unique_ptr<router::HttpServer> operator_;
  std::unique_ptr<router::GrpcServer> grpc_;
  std::unique_ptr<router::AdminServer> admin_;  // null: none
};

}  // namespace paceline::cli

#endif  // PACELINE_CLI_ROUTER_SERVERS_H_
