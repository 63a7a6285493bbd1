#include "cli/router_servers.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include <functional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/tls_files.h"
#include "cli/version.h"
#include "proto/support/clock.h"
#include "proto/support/status_grpc.h"
#include "proto/support/status_macros.h"
#include "proto/support/tls_grpc.h"
#include "router/core/request_context.h"

namespace paceline::cli {
namespace {

router::Authenticate MakeAuthenticate(const KeyFile& keys) {
  if (!keys.required()) return nullptr;
  return [&keys](std::string_view key) -> std::variant<std::string, router::ApiError> {
    if (auto tenant = keys.Authenticate(key)) return *std::move(tenant);
    return router::UnauthenticatedError();
  };
}

bool IsLoopback(const std::string& host) {
  in_addr v4{};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
  return host == "localhost" || host == "::1";
}

}  // namespace

absl::StatusOr<std::unique_ptr<RouterServers>> RouterServers::Start(const RouterOptions& options,
                                                                    router::RouterCore& core,
                                                                    FileWatch& files,
                                                                    const OtlpExporter* exporter) {
  auto servers = std::unique_ptr<RouterServers>(new RouterServers(core));
  servers->started_ns_ = SteadyClock::Get().NowNs();
  RETURN_IF_ERROR(servers->OpenFiles(options, files));
  const router::Authenticate authenticate = MakeAuthenticate(*servers->keys_);

  servers->api_handler_ = std::make_unique<router::ApiHandler>(router::ApiHandler::Options{
      .service = &core.service(),
      .executor = &core.text_threads(),
      .authenticate = authenticate,
      .parse = {.allow_unknown_fields = options.allow_unknown_fields},
      .version = kVersion,
      .on_answered = [&core](const router::HttpAccess& access) {
        core.metrics().OnAnswered(
            access.route, StatusCodeOfHttp(access.status), access.tenant_class);
      }});
  servers->operator_handler_ = std::make_unique<router::OperatorHandler>(
      router::OperatorHandler::Options{.metrics_text =
                                           [&core, &files, exporter] {
                                             return core.metrics().Text() + files.MetricsText() +
                                                    (exporter ? exporter->MetricsText() : "");
                                           },
                                       .status = [raw = servers.get()] { return raw->Status(); },
                                       .ready = [&core] { return core.service().Ready(); },
                                       .version = kVersion});

  router::HttpServer::Options http;
  http.host = options.host;
  http.port = static_cast<uint16_t>(options.port);
  http.tls = servers->tls_.get();
  http.asks_clients = true;
  servers->http_ = std::make_unique<router::HttpServer>(http, servers->api_handler_.get());
  http.host = options.operator_host;
  http.port = static_cast<uint16_t>(options.operator_port);
  http.num_threads = 1;
  http.tls = options.operator_tls ? servers->tls_.get() : nullptr;
  http.asks_clients = false;  // probes and Prometheus have none to show
  servers->operator_ = std::make_unique<router::HttpServer>(http, servers->operator_handler_.get());
  servers->grpc_ = std::make_unique<router::GrpcServer>(
      router::ListenerOptions{.host = options.host,
                              .port = static_cast<uint16_t>(options.grpc_port),
                              .credentials = ServerCredentialsOf(servers->tls_.get())},
      &core.service(),
      &core.text_threads(),
      authenticate,
      [&core](const router::GrpcAccess& access) {
        core.metrics().OnAnswered(access.route, access.code, access.tenant_class);
      });
  RETURN_IF_ERROR(servers->MakeAdmin(options));
  RETURN_IF_ERROR(servers->operator_->Start());
  if (servers->admin_ != nullptr) RETURN_IF_ERROR(servers->admin_->Start());
  RETURN_IF_ERROR(servers->http_->Start());  // first: it says plainly what is wrong with a host
  RETURN_IF_ERROR(servers->grpc_->Start());
  return servers;
}

absl::Status RouterServers::OpenFiles(const RouterOptions& options, FileWatch& files) {
  ASSIGN_OR_RETURN(keys_, KeyFile::Open("--api-key", options.api_keys, options.api_key_file));
  ASSIGN_OR_RETURN(admin_keys_,
                   KeyFile::Open("--admin-key", options.admin_keys, options.admin_key_file));
  RETURN_IF_ERROR(
      files.Add("api-key", {options.api_key_file}, [this] { return keys_->Refresh(); }));
  RETURN_IF_ERROR(
      files.Add("admin-key", {options.admin_key_file}, [this] { return admin_keys_->Refresh(); }));
  if (options.tls.cert_file.empty() && !options.tls.ca_file.empty()) {
    return absl::InvalidArgumentError("--tls-ca-file: needs --tls-cert-file");
  }
  ASSIGN_OR_RETURN(tls_, FollowTlsFiles(options.tls, "tls", files));
  if (options.operator_tls && tls_ == nullptr) {
    return absl::InvalidArgumentError("--operator-tls: needs --tls-cert-file");
  }
  return absl::OkStatus();
}

absl::Status RouterServers::SetKeys(const RouterOptions& options) {
  RETURN_IF_ERROR(keys_->Check(options.api_keys));
  RETURN_IF_ERROR(admin_keys_->Check(options.admin_keys));
  RETURN_IF_ERROR(keys_->Refresh(options.api_keys));
  return admin_keys_->Refresh(options.admin_keys);
}

absl::Status RouterServers::MakeAdmin(const RouterOptions& options) {
  if (options.admin_port < 0) {
    if (!admin_keys_->required()) return absl::OkStatus();
    return absl::InvalidArgumentError("--admin-key: needs --admin-port");
  }
  if (!admin_keys_->required() && !IsLoopback(options.operator_host)) {
    return absl::InvalidArgumentError(absl::StrCat("--admin-port: --operator-host ",
                                                   options.operator_host,
                                                   " is not loopback, so --admin-key is needed"));
  }
  router::Dispatcher& core = core_.dispatcher();
  admin_ = std::make_unique<router::AdminServer>(
      router::ListenerOptions{.host = options.operator_host,
                              .port = static_cast<uint16_t>(options.admin_port),
                              .credentials = ServerCredentialsOf(tls_.get())},
      router::AdminService::Options{
          .list_replicas = [&core] { return core.Replicas(); },
          .drain_replica = std::bind_front(&router::Dispatcher::DrainReplica, &core),
          .flush_prefix_cache = std::bind_front(&router::Dispatcher::FlushPrefixCache, &core),
          .authenticate = MakeAuthenticate(*admin_keys_)});
  return absl::OkStatus();
}

router::StatusSnapshot RouterServers::Status() {
  router::StatusSnapshot status;
  status.replicas = core_.dispatcher().Replicas();
  const router::Dispatcher::Activity activity = core_.dispatcher().RecentActivity();
  status.queued_requests = activity.queued_requests;
  status.queued_tokens = activity.queued_tokens;
  status.running_requests = activity.running_requests;
  status.prompt_tokens_per_second = activity.prompt_tokens_per_second;
  status.generation_tokens_per_second = activity.generation_tokens_per_second;
  status.uptime_seconds = (SteadyClock::Get().NowNs() - started_ns_) / 1'000'000'000;
  return status;
}

void RouterServers::Stop(std::chrono::milliseconds grace) {
  DrainRouterCore(core_, grace);
  // Every call has had its terminal event; what is left is to send it.
  constexpr std::chrono::milliseconds kFlush(1000);
  std::thread http([this] { http_->Stop(kFlush); });
  grpc_->Stop(kFlush);
  http.join();
  operator_->Stop(std::chrono::milliseconds(0));
  if (admin_ != nullptr) admin_->Stop(kFlush);
}

RouterServers::~RouterServers() = default;

}  // namespace paceline::cli
