// absl::Status <-> grpc::Status, code for code. Stateless; any thread.
#ifndef PACELINE_PROTO_SUPPORT_STATUS_GRPC_H_
#define PACELINE_PROTO_SUPPORT_STATUS_GRPC_H_

#include "absl/status/status.h"

namespace grpc {
class Status;
}

namespace paceline {

grpc::Status ToGrpcStatus(const absl::Status& status);
absl::Status FromGrpcStatus(const grpc::Status& status);

// The HTTP status code for `code`: INVALID_ARGUMENT 400, UNAUTHENTICATED 401, PERMISSION_DENIED
// 403, NOT_FOUND 404, RESOURCE_EXHAUSTED 429, CANCELLED 499, UNIMPLEMENTED 501, UNAVAILABLE 503,
// DEADLINE_EXCEEDED 504, everything else 500.
int HttpStatusCode(absl::StatusCode code);
// And back: any other 4xx, and 505, are INVALID_ARGUMENT; any other 5xx is INTERNAL.
absl::StatusCode StatusCodeOfHttp(int http_status);

}  // namespace paceline

#endif  // PACELINE_PROTO_SUPPORT_STATUS_GRPC_H_
