#include "router/openai/errors.h"

#include <string_view>

#include "proto/support/status_grpc.h"
#include "router/openai/json_writer.h"

namespace paceline::router {
namespace {

std::string_view ErrorType(int http_status) {
  switch (http_status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 408:
    case 504:
      return "timeout_error";
    case 429:
      return "rate_limit_error";
    case 503:
      return "service_unavailable_error";
    default:
      return http_status < 500 ? "invalid_request_error" : "server_error";
  }
}

}  // namespace

int HttpStatusOf(const ApiError& error) {
  return error.http_status != 0 ? error.http_status : HttpStatusCode(error.status);
}

std::string ErrorJson(const ApiError& error) {
  std::string out;
  JsonWriter writer(&out);
  writer.BeginObject().Key("error").BeginObject();
  writer.Key("message").String(error.message);
  writer.Key("type").String(ErrorType(HttpStatusOf(error)));
  writer.Key("param");
  error.param.empty() ? writer.Null() : writer.String(error.param);
  writer.Key("code");
  error.code.empty() ? writer.Null() : writer.String(error.code);
  writer.EndObject().EndObject();
  return out;
}

}  // namespace paceline::router
