#include "router/http/api_handler.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_replace.h"
#include "proto/support/trace.h"
#include "router/http/inference_exchange.h"
#include "router/openai/errors.h"
#include "router/openai/json_writer.h"
#include "router/openai/responses.h"

namespace paceline::router {
namespace {

// Bodies up to this size are parsed on the connection's own thread.
constexpr size_t kShortBodyBytes = 16 << 10;
constexpr double kMaxTimeoutSeconds = 86'400;
constexpr std::string_view kModelPrefix = "/v1/models/";

enum RouteId {
  kHealth,
  kReady,
  kVersion,
  kModels,
  kModel,
  kCompletions,
  kChatCompletions,
  kEmbeddings,
  kTokenize,
  kDetokenize,
};

struct Route {
  RouteId id;
  std::string_view method;
  std::string_view path;
  bool needs_key = true;
};

constexpr Route kRoutes[] = {
    {kHealth, "GET", "/health", false},
    {kReady, "GET", "/ready", false},
    {kVersion, "GET", "/version"},
    {kModels, "GET", "/v1/models"},
    {kModel, "GET", "/v1/models/{id}"},
    {kCompletions, "POST", "/v1/completions"},
    {kChatCompletions, "POST", "/v1/chat/completions"},
    {kEmbeddings, "POST", "/v1/embeddings"},
    {kTokenize, "POST", "/tokenize"},
    {kDetokenize, "POST", "/detokenize"},
};

// The path is compared as it came: no decoding, no normalisation.
std::string_view PathOf(std::string_view target) { return target.substr(0, target.find('?')); }

const Route* FindRoute(std::string_view path) {
  for (const Route& route : kRoutes) {
    if (route.id == kModel) {
      if (path.size() > kModelPrefix.size() &&
          path.substr(0, kModelPrefix.size()) == kModelPrefix) {
        return &route;
      }
    } else if (route.path == path) {
      return &route;
    }
  }
  return nullptr;
}

bool IsKnownMethod(std::string_view method) {
  constexpr std::string_view kMethods[] = {
      "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"};
  return std::find(std::begin(kMethods), std::end(kMethods), method) != std::end(kMethods);
}

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

bool EqualsIgnoreCase(std::string_view a, std::string_view b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](char x, char y) {
           return Lower(x) == Lower(y);
         });
}

std::string_view Trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

// application/json, with no character set but UTF-8.
bool IsJson(std::optional<std::string_view> content_type) {
  if (!content_type) return false;
  size_t end = content_type->find(';');
  if (!EqualsIgnoreCase(Trim(content_type->substr(0, end)), "application/json")) return false;
  while (end != std::string_view::npos) {
    content_type->remove_prefix(end + 1);
    end = content_type->find(';');
    const std::string_view parameter = Trim(content_type->substr(0, end));
    constexpr std::string_view kCharset = "charset=";
    if (!EqualsIgnoreCase(parameter.substr(0, kCharset.size()), kCharset)) continue;
    const std::string_view charset = parameter.substr(kCharset.size());
    if (!EqualsIgnoreCase(charset, "utf-8") && !EqualsIgnoreCase(charset, "\"utf-8\""))
      return false;
  }
  return true;
}

bool HasPlainEncoding(const HttpRequest& request) {
  if (request.CountOf("content-encoding") == 0) return true;
  const auto encoding = request.Header("content-encoding");
  return encoding && EqualsIgnoreCase(*encoding, "identity");
}

// A model id as it may stand in a path: everything but unreserved characters as %XX.
std::string PathEncoded(std::string_view id) {
  constexpr char kHex[] = "0123456789ABCDEF";
  constexpr std::string_view kUnreserved = "-._~";
  std::string encoded;
  for (const char c : id) {
    const bool is_plain = (c >= '0' && c <= '9') || (Lower(c) >= 'a' && Lower(c) <= 'z') ||
                          kUnreserved.find(c) != std::string_view::npos;
    if (is_plain) {
      encoded.push_back(c);
    } else {
      const unsigned char byte = static_cast<unsigned char>(c);
      encoded.append({'%', kHex[byte >> 4], kHex[byte & 15]});
    }
  }
  return encoded;
}

// An error about the message's field `name`, which bodies call `http_name`.
ApiError Renamed(ApiError error, const std::string& name, const std::string& http_name) {
  if (error.param != name) return error;
  error.param = http_name;
  absl::StrReplaceAll({{name, http_name}}, &error.message);
  return error;
}

HttpResponse JsonResponse(std::string body) { return HttpResponse{.body = std::move(body)}; }

// The steady-clock deadline that X-Request-Timeout asks for; 0 without the header.
std::variant<int64_t, ApiError> DeadlineOf(const HttpRequest& request) {
  constexpr char kName[] = "X-Request-Timeout";
  if (request.CountOf("x-request-timeout") == 0) return int64_t{0};
  const auto header = request.Header("x-request-timeout");
  double seconds = 0;
  if (!header || !absl::SimpleAtod(std::string(*header), &seconds) || !std::isfinite(seconds) ||
      seconds <= 0 || seconds > kMaxTimeoutSeconds) {
    return InvalidParam(kName, "X-Request-Timeout must be a number of seconds up to 86400");
  }
  return request.arrival_ns + static_cast<int64_t>(seconds * 1e9);
}

}  // namespace

HttpResponse ErrorResponse(const ApiError& error) {
  HttpResponse response{.status = HttpStatusOf(error), .body = ErrorJson(error)};
  if (response.status == 429 || response.status == 503) {
    const int64_t seconds = std::max<int64_t>(1, (error.retry_after_ms + 999) / 1000);
    response.headers.emplace_back("Retry-After", std::to_string(seconds));
  } else if (response.status == 401) {
    response.headers.emplace_back("WWW-Authenticate", "Bearer");
  }
  return response;
}

HttpResponse StatusResponse(int status) {
  ApiError error{.status = absl::StatusCode::kInvalidArgument, .http_status = status};
  switch (status) {
    case 404:
      error.message = "There is no such route";
      error.code = "not_found";
      break;
    case 405:
      error.message = "The route does not have this method";
      error.code = "method_not_allowed";
      break;
    case 408:
      error.message = "The request did not arrive in time";
      error.code = "request_timeout";
      break;
    case 413:
      error.message = "The request body is too large";
      error.code = "body_too_large";
      break;
    case 414:
      error.message = "The request line is too long";
      error.code = "uri_too_long";
      break;
    case 415:
      error.message = "The request body must be application/json in UTF-8, not compressed";
      error.code = "unsupported_media_type";
      break;
    case 417:
      error.message = "Only Expect: 100-continue is supported";
      error.code = "expectation_failed";
      break;
    case 431:
      error.message = "The request headers are too large";
      error.code = "headers_too_large";
      break;
    case 501:
      error.message = "Not supported yet";
      error.code = "not_supported";
      break;
    case 505:
      error.message = "Only HTTP/1.0 and HTTP/1.1 are supported";
      error.code = "http_version";
      break;
    default:
      error.message = "The request is not valid HTTP";
      error.code = "invalid_http";
  }
  return ErrorResponse(error);
}

ApiHandler::ApiHandler(Options options) : options_(std::move(options)) {}

std::vector<ApiHandler::RouteInfo> ApiHandler::Routes() {
  std::vector<RouteInfo> routes;
  for (const Route& route : kRoutes) routes.push_back({route.method, route.path, route.needs_key});
  return routes;
}

std::optional<HttpResponse> ApiHandler::Admit(HttpRequest& request) {
  const auto id = request.Header("x-request-id");
  request.request_id = id && IsValidRequestId(*id) ? std::string(*id) : NewRequestId();

  const Route* route = FindRoute(PathOf(request.target));
  if (route != nullptr) request.route_label = route->path;
  if (route == nullptr || route->needs_key) {
    auto tenant = TenantOf(options_.authenticate, request.Header("authorization"));
    if (const auto* error = std::get_if<ApiError>(&tenant)) return ErrorResponse(*error);
    request.tenant = std::move(std::get<std::string>(tenant));
  }
  if (!IsKnownMethod(request.method)) return StatusResponse(501);
  if (route == nullptr) return StatusResponse(404);
  request.route = route->id;
  const bool is_get = route->method == "GET";
  if (request.method != route->method && !(is_get && request.method == "HEAD")) {
    HttpResponse response = StatusResponse(405);
    response.headers.emplace_back("Allow", is_get ? "GET, HEAD" : "POST");
    return response;
  }
  if (is_get && request.has_body) return StatusResponse(400);
  if (!is_get && (!HasPlainEncoding(request) || !IsJson(request.Header("content-type")))) {
    return StatusResponse(415);
  }
  return std::nullopt;
}

void ApiHandler::Handle(HttpRequest request, std::shared_ptr<Exchange> exchange) {
  const bool tokenizes = request.route == kTokenize || request.route == kDetokenize;
  if (options_.executor == nullptr || (!tokenizes && request.body.size() <= kShortBodyBytes)) {
    return Answer(request, exchange);
  }
  options_.executor->Post([this, request = std::move(request), exchange = std::move(exchange)] {
    Answer(request, exchange);
  });
}

void ApiHandler::OnAnswered(const HttpAccess& access) {
  if (options_.on_answered) options_.on_answered(access);
}

void ApiHandler::Answer(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) {
  if (request.route == kCompletions || request.route == kChatCompletions) {
    AnswerInference(request, exchange);
  } else {
    exchange->Respond(AnswerAtOnce(request));
  }
}

void ApiHandler::AnswerInference(const HttpRequest& request,
                                 const std::shared_ptr<Exchange>& exchange) {
  auto deadline = DeadlineOf(request);
  if (const auto* error = std::get_if<ApiError>(&deadline)) {
    return exchange->Respond(ErrorResponse(*error));
  }
  auto parsed = request.route == kCompletions ? ParseCompletion(request.body, options_.parse)
                                              : ParseChatCompletion(request.body, options_.parse);
  if (const auto* error = std::get_if<ApiError>(&parsed)) {
    return exchange->Respond(ErrorResponse(*error));
  }
  const auto traceparent = request.Header("traceparent");
  CallContext context{.tenant = request.tenant, .deadline_ns = std::get<int64_t>(deadline)};
  if (traceparent && IsValidTraceparent(*traceparent)) context.traceparent = *traceparent;
  auto& inference = std::get<InferenceRequest>(parsed);
  std::string id = AssignRequestIds(request.request_id, inference);
  InferenceExchange::Run(options_.service, std::move(inference), context, std::move(id), exchange);
}

HttpResponse ApiHandler::AnswerAtOnce(const HttpRequest& request) {
  switch (request.route) {
    case kHealth:
      return JsonResponse(R"({"status":"ok"})");
    case kReady:
      if (options_.service->Ready()) return JsonResponse(R"({"status":"ready"})");
      return ErrorResponse(ApiError{.status = absl::StatusCode::kUnavailable,
                                    .message = "No replica is ready",
                                    .code = "no_ready_replica"});
    case kVersion: {
      std::string body;
      JsonWriter(&body).BeginObject().Key("version").String(options_.version).EndObject();
      return JsonResponse(std::move(body));
    }
    case kModels:
      return JsonResponse(ModelListJson(options_.service->ListModels()));
    case kModel:
      return Model(PathOf(request.target).substr(kModelPrefix.size()));
    case kTokenize:
      return Tokenize(request);
    case kDetokenize:
      return Detokenize(request);
    default:
      return StatusResponse(501);
  }
}

HttpResponse ApiHandler::Model(std::string_view path_id) {
  for (const v1::ModelInfo& model : options_.service->ListModels()) {
    if (model.id() == path_id || PathEncoded(model.id()) == path_id) {
      return JsonResponse(ModelJson(model));
    }
  }
  return ErrorResponse(ApiError{.status = absl::StatusCode::kNotFound,
                                .message = "The model does not exist",
                                .param = "model",
                                .code = "model_not_found"});
}

HttpResponse ApiHandler::Tokenize(const HttpRequest& request) {
  auto parsed = ParseTokenize(request.body, options_.parse);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return ErrorResponse(*error);
  const auto& tokenize = std::get<v1::TokenizeRequest>(parsed);
  const auto result = options_.service->Tokenize(tokenize);
  if (const auto* error = std::get_if<ApiError>(&result)) {
    return ErrorResponse(Renamed(*error, "text", "prompt"));
  }
  return JsonResponse(TokenizeJson(std::get<TokenizeResult>(result), tokenize.return_token_strs()));
}

HttpResponse ApiHandler::Detokenize(const HttpRequest& request) {
  auto parsed = ParseDetokenize(request.body, options_.parse);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return ErrorResponse(*error);
  const auto text = options_.service->Detokenize(std::get<v1::DetokenizeRequest>(parsed));
  if (const auto* error = std::get_if<ApiError>(&text)) {
    return ErrorResponse(Renamed(*error, "token_ids", "tokens"));
  }
  return JsonResponse(DetokenizeJson(std::get<std::string>(text)));
}

}  // namespace paceline::router
