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

// The call's tenant and surroundings around a copy of its message, or the status to refuse it with.
template <class Request>
std::variant<CallRequest, grpc::Status> MakeCall(grpc::CallbackServerContext* context,
                                                 const Authenticate& authenticate,
                                                 const Request& request,
                                                 bool is_stream) {
  auto tenant = TenantOfCall(authenticate, *context);
  if (const auto* error = std::get_if<ApiError>(&tenant)) return FinishStatus(*error, *context);
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

template <class Response, class Request>
grpc::ServerUnaryReactor* Unary(grpc::CallbackServerContext* context,
                                const Authenticate& authenticate,
                                Service* service,
                                const std::shared_ptr<LiveCalls>& live_calls,
                                const Request& request,
                                Response* response) {
  auto call = MakeCall(context, authenticate, request, /*is_stream=*/false);
  if (auto* status = std::get_if<grpc::Status>(&call)) return FinishUnary(context, *status);
  return StartUnaryCall(
      context, service, std::move(std::get<CallRequest>(call)), live_calls, response);
}

template <class Chunk, class Request>
grpc::ServerWriteReactor<Chunk>* Stream(grpc::CallbackServerContext* context,
                                        const Authenticate& authenticate,
                                        Service* service,
                                        const std::shared_ptr<LiveCalls>& live_calls,
                                        const Request& request) {
  auto call = MakeCall(context, authenticate, request, /*is_stream=*/true);
  if (auto* status = std::get_if<grpc::Status>(&call)) return RefuseStream<Chunk>(*status);
  return StartStreamCall<Chunk>(
      context, service, std::move(std::get<CallRequest>(call)), live_calls);
}

// Runs `answer`, which returns nullopt or an error, if the caller has a key.
template <class Answer>
grpc::ServerUnaryReactor* Simple(grpc::CallbackServerContext* context,
                                 const Authenticate& authenticate,
                                 Executor* executor,
                                 Answer answer) {
  const auto tenant = TenantOfCall(authenticate, *context);
  if (const auto* error = std::get_if<ApiError>(&tenant)) {
    return FinishUnary(context, FinishStatus(*error, *context));
  }
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  auto task = [context, reactor, answer = std::move(answer)] {
    const std::optional<ApiError> error = answer();
    reactor->Finish(error ? FinishStatus(*error, *context) : grpc::Status::OK);
  };
  if (executor == nullptr) {
    task();
  } else {
    executor->Post(std::move(task));
  }
  return reactor;
}

}  // namespace

InferenceService::InferenceService(router::Service* service,
                                   Executor* executor,
                                   Authenticate authenticate)

    : service_(service), executor_(executor), authenticate_(std::move(authenticate)) {}

grpc::ServerUnaryReactor* InferenceService::Generate(grpc::CallbackServerContext* context,
                                                     const v1::GenerateRequest* request,
                                                     v1::GenerateResponse* response) {
  return Unary(context, authenticate_, service_, live_calls_, *request, response);
}

grpc::ServerWriteReactor<v1::GenerateChunk>* InferenceService::GenerateStream(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  return Stream<v1::GenerateChunk>(context, authenticate_, service_, live_calls_, *request);
}

grpc::ServerUnaryReactor* InferenceService::Chat(grpc::CallbackServerContext* context,
                                                 const v1::ChatRequest* request,
                                                 v1::ChatResponse* response) {
  return Unary(context, authenticate_, service_, live_calls_, *request, response);
}

grpc::ServerWriteReactor<v1::ChatChunk>* InferenceService::ChatStream(
    grpc::CallbackServerContext* context, const v1::ChatRequest* request) {
  return Stream<v1::ChatChunk>(context, authenticate_, service_, live_calls_, *request);
}

grpc::ServerUnaryReactor* InferenceService::Embed(grpc::CallbackServerContext* context,
                                                  const v1::EmbedRequest*,
                                                  v1::EmbedResponse*) {
  return Simple(context, authenticate_, nullptr, []() -> std::optional<ApiError> {
    return ApiError{.status = absl::StatusCode::kUnimplemented,
                    .message = "Not supported yet",
                    .code = "not_supported"};
  });
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  return Simple(context, authenticate_, executor_, [=, this]() -> std::optional<ApiError> {
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
  return Simple(context, authenticate_, executor_, [=, this]() -> std::optional<ApiError> {
    auto result = service_->Detokenize(*request);
    if (auto* error = std::get_if<ApiError>(&result)) return std::move(*error);
    response->set_text(std::move(std::get<std::string>(result)));
    return std::nullopt;
  });
}

grpc::ServerUnaryReactor* InferenceService::ListModels(grpc::CallbackServerContext* context,
                                                       const v1::ListModelsRequest*,
                                                       v1::ListModelsResponse* response) {
  return Simple(context, authenticate_, nullptr, [=, this]() -> std::optional<ApiError> {
    for (v1::ModelInfo& model : service_->ListModels()) {
      *response->add_models() = std::move(model);
    }
    return std::nullopt;
  });
}

grpc::ServerUnaryReactor* InferenceService::GetModel(grpc::CallbackServerContext* context,
                                                     const v1::GetModelRequest* request,
                                                     v1::ModelInfo* response) {
  return Simple(context, authenticate_, nullptr, [=, this]() -> std::optional<ApiError> {
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
