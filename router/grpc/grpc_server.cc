#include "router/grpc/grpc_server.h"

#include <string_view>
#include <utility>

#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/support/server_interceptor.h"

namespace paceline::router {
namespace {

constexpr auto kReadinessInterval = std::chrono::milliseconds(100);
constexpr auto kLastWords = std::chrono::seconds(1);

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

std::string AddressOf(const std::string& host, uint16_t port) {
  const bool is_v6 = host.find(':') != std::string::npos;
  return (is_v6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

}  // namespace

GrpcServer::GrpcServer(Options options,
                       Service* service,
                       Executor* executor,
                       Authenticate authenticate)
    : options_(std::move(options)),
      service_(service),
      authenticate_(std::move(authenticate)),
      inference_(service, executor, authenticate_) {}

GrpcServer::~GrpcServer() { Stop(std::chrono::milliseconds(0)); }

absl::Status GrpcServer::Start() {
  grpc::EnableDefaultHealthCheckService(true);
  if (options_.reflection) grpc::reflection::InitProtoReflectionServerBuilderPlugin();

  grpc::ServerBuilder builder;
  const std::string address = AddressOf(options_.host, options_.port);
  builder.AddListeningPort(
      address,
      options_.credentials ? options_.credentials : grpc::InsecureServerCredentials(),
      &port_);
  builder.RegisterService(&inference_);
  for (grpc::Service* more : options_.more_services) builder.RegisterService(more);
  builder.SetMaxReceiveMessageSize(options_.max_message_bytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, options_.max_metadata_bytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options_.max_streams_per_connection);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a taken port is an error
  // A peer that vanishes from a call is noticed within 20 s. Without calls nobody is asked: some
  // clients (Python's) answer no pings then, and would be cut off.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 8'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 0);
  // Clients may ping every 5 s in a call and now and then without one; a flood ends the connection.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 1000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
  if (authenticate_) {
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> creators;
    creators.push_back(std::make_unique<ReflectionGuardFactory>(&authenticate_));
    builder.experimental().SetInterceptorCreators(std::move(creators));
  }
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || port_ <= 0) {
    server_ = nullptr;
    return absl::UnavailableError("gRPC address " + address + ": cannot listen");
  }
  FollowReadiness();
  return absl::OkStatus();
}

// grpc.health.v1 says what Service::Ready says, at most 100 ms later.
void GrpcServer::FollowReadiness() {
  const auto publish = [this](bool ready) {
    grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
    health->SetServingStatus("", ready);
    health->SetServingStatus("paceline.v1.Inference", ready);
  };
  bool ready = service_->Ready();
  publish(ready);
  health_thread_ = std::thread([this, publish, ready]() mutable {
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, kReadinessInterval, [this] { return stopping_; })) {
      if (const bool now = service_->Ready(); now != ready) publish(ready = now);
    }
    publish(false);
  });
}

void GrpcServer::Stop(std::chrono::milliseconds grace) {
  if (server_ == nullptr) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  health_thread_.join();

  // Refuses new calls at once; cancels what is left at the very end.
  std::thread shutdown([this, deadline = std::chrono::system_clock::now() + grace + kLastWords] {
    server_->Shutdown(deadline);
  });
  if (!inference_.live_calls().WaitUntilNone(grace)) {
    inference_.live_calls().EndAll(ApiError{.status = absl::StatusCode::kUnavailable,
                                            .message = "The server is shutting down",
                                            .code = "draining"});
  }
  shutdown.join();
  server_ = nullptr;
}

}  // namespace paceline::router
