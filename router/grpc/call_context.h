// What a gRPC call brings besides its message, and how errors go back. Stateless; any thread.
#ifndef PACELINE_ROUTER_GRPC_CALL_CONTEXT_H_
#define PACELINE_ROUTER_GRPC_CALL_CONTEXT_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "absl/status/status.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/status.h"
#include "router/core/api_error.h"
#include "router/core/call.h"
#include "router/core/request_context.h"

namespace paceline::router {

// One answered call.
struct GrpcAccess {
  std::string_view route;  // Service/Method; static storage
  absl::StatusCode code = absl::StatusCode::kOk;
  std::string_view tenant_class;  // static storage
};
using OnGrpcAnswered = std::function<void(const GrpcAccess&)>;  // any thread; may be null

// Reports one call, just before it is finished. `on_answered` must outlive it.
class AccessReport {
 public:
  AccessReport(const OnGrpcAnswered& on_answered, std::string_view route)
      : on_answered_(on_answered), access_{.route = route, .tenant_class = TenantClass("")} {}
  void SetTenant(std::string_view tenant) { access_.tenant_class = TenantClass(tenant); }
  void Send(absl::StatusCode code) {
    access_.code = code;
    if (on_answered_) on_answered_(access_);
  }

 private:
  const OnGrpcAnswered& on_answered_;
  GrpcAccess access_;
};

// The value of a metadata key (lower case); nullopt when absent or given more than once.
std::optional<std::string_view> Metadata(const grpc::ServerContextBase& context,
                                         std::string_view key);

// The caller's tenant, from "authorization: Bearer <key>".
std::variant<std::string, ApiError> TenantOfCall(const Authenticate& authenticate,
                                                 const grpc::ServerContextBase& context);

// Tenant aside, what a CallRequest takes from the call: deadline, trace context, and a request id
// from "x-request-id" when `options` has none (one is drawn when neither has).
void FillFromCall(const grpc::ServerContextBase& context,
                  v1::RequestOptions& options,
                  CallRequest& call);

// The status to finish with. Adds what does not fit a status as trailing metadata:
// paceline-error-param, paceline-error-code and grpc-retry-pushback-ms.
grpc::Status FinishStatus(const ApiError& error, grpc::ServerContextBase& context);

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_GRPC_CALL_CONTEXT_H_
