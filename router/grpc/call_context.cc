#include "router/grpc/call_context.h"

#include <algorithm>
#include <chrono>

#include "proto/support/clock.h"
#include "proto/support/status_grpc.h"
#include "proto/support/trace.h"

namespace paceline::router {

std::optional<std::string_view> Metadata(const grpc::ServerContextBase& context,
                                         std::string_view key) {
  const auto& metadata = context.client_metadata();
  const auto [begin, end] = metadata.equal_range(grpc::string_ref(key.data(), key.size()));
  if (begin == end || std::next(begin) != end) return std::nullopt;
  return std::string_view(begin->second.data(), begin->second.size());
}

std::variant<std::string, ApiError> TenantOfCall(const Authenticate& authenticate,
                                                 const grpc::ServerContextBase& context) {
  return TenantOf(authenticate, Metadata(context, "authorization"));
}

void FillFromCall(const grpc::ServerContextBase& context,
                  v1::RequestOptions& options,
                  CallRequest& call) {
  const auto traceparent = Metadata(context, "traceparent");
  if (traceparent && IsValidTraceparent(*traceparent)) call.traceparent = *traceparent;

  if (options.request_id().empty()) {
    const auto id = Metadata(context, "x-request-id");
    options.set_request_id(id && IsValidRequestId(*id) ? std::string(*id) : NewRequestId());
  }

  const auto deadline = context.deadline();
  if (deadline != std::chrono::system_clock::time_point::max()) {
    const auto left = deadline - std::chrono::system_clock::now();
    const int64_t left_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(left).count();
    call.deadline_ns = std::max<int64_t>(1, SteadyClock::Get().NowNs() + left_ns);
  }
}

grpc::Status FinishStatus(const ApiError& error, grpc::ServerContextBase& context) {
  if (!error.param.empty()) context.AddTrailingMetadata("paceline-error-param", error.param);
  if (!error.code.empty()) context.AddTrailingMetadata("paceline-error-code", error.code);
  if (error.retry_after_ms > 0) {
    context.AddTrailingMetadata("grpc-retry-pushback-ms", std::to_string(error.retry_after_ms));
  }
  return ToGrpcStatus(absl::Status(error.status, error.message));
}

}  // namespace paceline::router
