#include "router/grpc/inference_service.h"

#include <utility>
#include <variant>

#include "router/grpc/call_context.h"
#include "router/grpc/inference_call.h"

namespace paceline::router {
namespace {

grpc::ServerUnaryReactor* FinishUnary(grpc::CallbackServerContext* context, grpc::Status status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(std::move(status));
  return reactor;
}

// The call's tenant and surroundings around a copy of its message, or the error to refuse it with.
template <class Request>
std::variant<CallRequest, ApiError> MakeCall(grpc::CallbackServerContext* context,
                                             const Authenticate& authenticate,
                                             const Request& request,
                                             bool is_stream) {
  auto tenant = TenantOfCall(authenticate, *context);
  if (auto* error = std::get_if<ApiError>(&tenant)) return std::move(*error);
  CallRequest call{
      .body = request, .tenant = std::move(std::get<std::string>(tenant)), .is_stream = is_stream};
  v1::RequestOptions& options = *std::get<Request>(call.body).mutable_options();
  FillFromCall(*context, options, call);
  // The core refuses ids that are not printable; they must not reach a header either.
  if (IsValidRequestId(options.request_id())) {
    context->AddInitialMetadata("x-request-id", options.request_id());
  }
  return call;
}

}  // namespace

template <class Response, class Request>
grpc::ServerUnaryReactor* InferenceService::Unary(grpc::CallbackServerContext* context,
                                                  std::string_view route,
                                                  const Request& request,
                                                  Response* response) {
  AccessReport report(on_answered_, route);
  auto call = MakeCall(context, authenticate_, request, /*is_stream=*/false);
  if (const auto* error = std::get_if<ApiError>(&call)) {
    report.Send(error->status);
    return FinishUnary(context, FinishStatus(*error, *context));
  }
  auto& accepted = std::get<CallRequest>(call);
  report.SetTenant(accepted.tenant);
  return StartUnaryCall(context, service_, std::move(accepted), report, live_calls_, response);
}

template <class Chunk, class Request>
grpc::ServerWriteReactor<Chunk>* InferenceService::Stream(grpc::CallbackServerContext* context,
                                                          std::string_view route,
                                                          const Request& request) {
  AccessReport report(on_answered_, route);
  auto call = MakeCall(context, authenticate_, request, /*is_stream=*/true);
  if (const auto* error = std::get_if<ApiError>(&call)) {
    report.Send(error->status);
    return RefuseStream<Chunk>(FinishStatus(*error, *context));
  }
  auto& accepted = std::get<CallRequest>(call);
  report.SetTenant(accepted.tenant);
  return StartStreamCall<Chunk>(context, service_, std::move(accepted), report, live_calls_);
}

template <class Answer>
grpc::ServerUnaryReactor* InferenceService::Simple(grpc::CallbackServerContext* context,
                                                   std::string_view route,
                                                   Executor* executor,
                                                   Answer answer) {
  AccessReport report(on_answered_, route);
  const auto tenant = TenantOfCall(authenticate_, *context);
  if (const auto* error = std::get_if<ApiError>(&tenant)) {
    report.Send(error->status);
    return FinishUnary(context, FinishStatus(*error, *context));
  }
  report.SetTenant(std::get<std::string>(tenant));
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  auto task = [context, reactor, report, answer = std::move(answer)]() mutable {
    const std::optional<ApiError> error = answer();
    report.Send(error ? error->status : absl::StatusCode::kOk);
    reactor->Finish(error ? FinishStatus(*error, *context) : grpc::Status::OK);
  };
  if (executor == nullptr) {
    task();
  } else {
    executor->Post(std::move(task));
  }
  return reactor;
}

InferenceService::InferenceService(router::Service* service,
                                   Executor* executor,
                                   Authenticate authenticate,
                                   OnGrpcAnswered on_answered)
    : service_(service),
      executor_(executor),
      authenticate_(std::move(authenticate)),
      on_answered_(std::move(on_answered)) {}

grpc::ServerUnaryReactor* InferenceService::Generate(grpc::CallbackServerContext* context,
                                                     const v1::GenerateRequest* request,
                                                     v1::GenerateResponse* response) {
  return Unary(context, "Inference/Generate", *request, response);
}

grpc::ServerWriteReactor<v1::GenerateChunk>* InferenceService::GenerateStream(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  return Stream<v1::GenerateChunk>(context, "Inference/GenerateStream", *request);
}

grpc::ServerUnaryReactor* InferenceService::Chat(grpc::CallbackServerContext* context,
                                                 const v1::ChatRequest* request,
                                                 v1::ChatResponse* response) {
  return Unary(context, "Inference/Chat", *request, response);
}

grpc::ServerWriteReactor<v1::ChatChunk>* InferenceService::ChatStream(
    grpc::CallbackServerContext* context, const v1::ChatRequest* request) {
  return Stream<v1::ChatChunk>(context, "Inference/ChatStream", *request);
}

grpc::ServerUnaryReactor* InferenceService::Embed(grpc::CallbackServerContext* context,
                                                  const v1::EmbedRequest*,
                                                  v1::EmbedResponse*) {
  return Simple(context, "Inference/Embed", nullptr, []() -> std::optional<ApiError> {
    return ApiError{.status = absl::StatusCode::kUnimplemented,
                    .message = "Not supported yet",
                    .code = "not_supported"};
  });
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  return Simple(context, "Inference/Tokenize", executor_, [=, this]() -> std::optional<ApiError> {
    auto result = service_->Tokenize(*request);
    if (auto* error = std::get_if<ApiError>(&result)) return std::move(*error);
    auto& tokens = std::get<TokenizeResult>(result);
    response->mutable_token_ids()->Add(tokens.token_ids.begin(), tokens.token_ids.end());
    response->set_count(static_cast<int32_t>(tokens.token_ids.size()));
    response->set_max_model_len(tokens.max_model_len);
    if (request->return_token_strs()) {
      for (std::string& token : tokens.token_strs) response->add_token_strs(std::move(token));
    }
    return std::nullopt;
  });
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const v1::DetokenizeRequest* request,
                                                       v1::DetokenizeResponse* response) {
  return Simple(context, "Inference/Detokenize", executor_, [=, this]() -> std::optional<ApiError> {
    auto result = service_->Detokenize(*request);
    if (auto* error = std::get_if<ApiError>(&result)) return std::move(*error);
    response->set_text(std::move(std::get<std::string>(result)));
    return std::nullopt;
  });
}

grpc::ServerUnaryReactor* InferenceService::ListModels(grpc::CallbackServerContext* context,
                                                       const v1::ListModelsRequest*,
                                                       v1::ListModelsResponse* response) {
  return Simple(context, "Inference/ListModels", nullptr, [=, this]() -> std::optional<ApiError> {
    for (v1::ModelInfo& model : service_->ListModels()) {
      *response->add_models() = std::move(model);
    }
    return std::nullopt;
  });
}

grpc::ServerUnaryReactor* InferenceService::GetModel(grpc::CallbackServerContext* context,
                                                     const v1::GetModelRequest* request,
                                                     v1::ModelInfo* response) {
  return Simple(context, "Inference/GetModel", nullptr, [=, this]() -> std::optional<ApiError> {
    for (v1::ModelInfo& model : service_->ListModels()) {
      if (model.id() != request->id()) continue;
      *response = std::move(model);
      return std::nullopt;
    }
    return ApiError{.status = absl::StatusCode::kNotFound,
                    .message = "The model does not exist",
                    .param = "id",
                    .code = "model_not_found"};
  });
}

}  // namespace paceline::router
