#include "router/dispatch/prepare.h"

#include <utility>

#include "absl/types/span.h"

namespace paceline::router {
namespace {

using IdsResult = std::variant<std::vector<int32_t>, ApiError>;

IdsResult PromptIds(const v1::GenerateRequest& body,
                    const ResolvedRequest& request,
                    const Model& model,
                    const Clock& clock,
                    TextTimes& times) {
  if (body.prompt_case() == v1::GenerateRequest::kText) {
    std::vector<int32_t> ids = model.text->EncodeText(body.text(), request.add_special_tokens);
    times.encoded_ns = clock.NowNs();
    return ids;
  }
  // In range: the validator saw them.
  return std::vector<int32_t>(body.token_ids().ids().begin(), body.token_ids().ids().end());
}

IdsResult PromptIds(const v1::ChatRequest& body,
                    const ResolvedRequest& request,
                    const Model& model,
                    const Clock& clock,
                    TextTimes& times) {
  auto rendered = model.text->RenderChat(body.messages(),
                                         {.add_generation_prompt = request.add_generation_prompt,
                                          .kwargs_json = body.chat_template_kwargs_json()});
  if (auto* error = std::get_if<ApiError>(&rendered)) return std::move(*error);
  times.rendered_ns = clock.NowNs();
  std::vector<int32_t> ids = model.text->EncodeChat(std::get<RenderedChat>(rendered));
  times.encoded_ns = clock.NowNs();
  return ids;
}

void KeepLast(std::vector<int32_t>& ids, size_t count) {
  if (ids.size() > count) ids.erase(ids.begin(), ids.end() - static_cast<ptrdiff_t>(count));
}

template <typename Body>
std::variant<Prepared, ApiError> PrepareBody(const Body& body,
                                             const Model& model,
                                             const ParameterLimits& limits,
                                             const Clock& clock,
                                             TextTimes& times) {
  ValidateResult validated = ValidateRequest(body, model.limits, limits);
  if (auto* error = std::get_if<ApiError>(&validated)) return std::move(*error);
  Prepared prepared{.request = std::get<ResolvedRequest>(std::move(validated))};
  times.begin_ns = clock.NowNs();
  IdsResult ids = PromptIds(body, prepared.request, model, clock, times);
  if (auto* error = std::get_if<ApiError>(&ids)) return std::move(*error);
  prepared.prompt_ids = std::get<std::vector<int32_t>>(std::move(ids));
  if (prepared.request.truncate_prompt_tokens) {
    KeepLast(prepared.prompt_ids, *prepared.request.truncate_prompt_tokens);
  }
  const auto count = static_cast<int64_t>(prepared.prompt_ids.size());
  if (auto error = ResolveLength(count, model.limits, prepared.request)) return *std::move(error);
  return prepared;
}

}  // namespace

std::variant<Prepared, ApiError> Prepare(const CallRequest& call,
                                         const Model& model,
                                         const ParameterLimits& limits,
                                         const Clock& clock,
                                         TextTimes& times) {
  const auto* generate = std::get_if<v1::GenerateRequest>(&call.body);
  if (generate == nullptr) {
    return PrepareBody(std::get<v1::ChatRequest>(call.body), model, limits, clock, times);
  }
  auto result = PrepareBody(*generate, model, limits, clock, times);
  if (auto* prepared = std::get_if<Prepared>(&result); prepared != nullptr && generate->echo()) {
    // The given text itself, unless the model sees something else.
    const bool is_whole = generate->prompt_case() == v1::GenerateRequest::kText &&
                          !prepared->request.truncate_prompt_tokens;
    prepared->echo_text = is_whole
                              ? generate->text()
                              : model.text->tokenizer()->Decode(
                                    prepared->prompt_ids, prepared->request.skip_special_tokens);
  }
  return result;
}

}  // namespace paceline::router
