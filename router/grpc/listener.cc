#include "router/grpc/listener.h"

#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "grpcpp/support/server_interceptor.h"
#include "proto/support/status_macros.h"

namespace paceline::router {
namespace {

constexpr int kKeepAliveTimeoutMs = 8'000;

// Reflection is a service that we do not write ourselves; this is where it asks for a key.
class ReflectionGuard final : public grpc::experimental::Interceptor {
 public:
  ReflectionGuard(const Authenticate* authenticate, grpc::ServerContextBase* context)
      : authenticate_(authenticate), context_(context) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    using grpc::experimental::InterceptionHookPoints;
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA)) {
      std::optional<std::string_view> authorization;
      const auto* metadata = methods->GetRecvInitialMetadata();
      const auto [begin, end] = metadata->equal_range("authorization");
      if (begin != end && std::next(begin) == end) {
        authorization.emplace(begin->second.data(), begin->second.size());
      }
      const auto tenant = TenantOf(*authenticate_, authorization);
      if (std::holds_alternative<ApiError>(tenant)) context_->TryCancel();
    }
    methods->Proceed();
  }

 private:
  const Authenticate* const authenticate_;
  grpc::ServerContextBase* const context_;
};

class ReflectionGuardFactory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit ReflectionGuardFactory(const Authenticate* authenticate) : authenticate_(authenticate) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    constexpr std::string_view kPrefix = "/grpc.reflection.";
    const std::string_view method(info->method());
    if (method.substr(0, kPrefix.size()) != kPrefix) return nullptr;
    return new ReflectionGuard(authenticate_, info->server_context());
  }

 private:
  const Authenticate* const authenticate_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> Listener::Start(
    const ListenerOptions& options,
    const std::vector<grpc::Service*>& services,
    const Authenticate& authenticate) {
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();  // of every server made from now on
  grpc::ServerBuilder builder;
  auto listener = std::make_unique<Listener>();
  ASSIGN_OR_RETURN(listener->acceptor_,
                   GrpcAcceptor::Listen(options.host,
                                        options.port,
                                        options.credentials ? options.credentials
                                                            : grpc::InsecureServerCredentials(),
                                        kKeepAliveTimeoutMs,
                                        builder));
  for (grpc::Service* service : services) builder.RegisterService(service);
  builder.SetMaxReceiveMessageSize(options.max_message_bytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, options.max_metadata_bytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams_per_connection);
  // A peer that vanishes from a call is noticed within 20 s. Without calls nobody is asked: some
  // clients (Python's) answer no pings then, and would be cut off.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepAliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 0);
  // Clients may ping every 5 s in a call and now and then without one; a flood ends the connection.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 1000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
  if (authenticate) {
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> creators;
    creators.push_back(std::make_unique<ReflectionGuardFactory>(&authenticate));
    builder.experimental().SetInterceptorCreators(std::move(creators));
  }
  listener->server_ = builder.BuildAndStart();
  if (listener->server_ == nullptr) return absl::InternalError("cannot start a gRPC server");
  listener->acceptor_->Start();
  return listener;
}

void Listener::Shutdown(std::chrono::system_clock::time_point deadline) {
  acceptor_->Stop();
  server_->Shutdown(deadline);
}

}  // namespace paceline::router
