#include "router/text/text_model.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "model/chat_template/chat_template.h"
#include "proto/support/status_macros.h"
#include "router/text/chat_json.h"
#include "router/text/vocabulary_proto.h"

namespace paceline::router {
namespace {

using nlohmann::ordered_json;

std::optional<std::string> TokenText(const model::Vocabulary& vocabulary, int32_t id) {
  if (id < 0) return std::nullopt;
  return vocabulary.tokens[id];
}

// Only what a template says on purpose reaches the client; other messages may hold names from the
// request.
ApiError RenderError(const absl::Status& status) {
  if (model::IsTemplateRaised(status)) {
    constexpr size_t kMaxBytes = 1024;
    return InvalidParam("messages",
                        absl::StrCat("The model's chat template refuses the messages: ",
                                     status.message().substr(0, kMaxBytes)),
                        "chat_template_refused");
  }
  if (absl::IsResourceExhausted(status)) {
    return InvalidParam("messages",
                        "The model's chat template takes too long or too much memory on these "
                        "messages",
                        "chat_template_limit");
  }
  return InvalidParam("messages",
                      "The model's chat template cannot be rendered with these messages and "
                      "template variables",
                      "chat_template_failed");
}

ApiError NoTemplateError(const absl::Status& status) {
  if (absl::IsNotFound(status)) {
    return InvalidParam("model", "The model has no chat template", "no_chat_template");
  }
  return InvalidParam("model",
                      absl::StrCat("The model's chat template cannot be used: ", status.message()),
                      "bad_chat_template");
}

}  // namespace

TextModel::~TextModel() = default;

absl::StatusOr<std::shared_ptr<const TextModel>> TextModel::Create(
    const v1::TokenizerBundle& bundle) {
  ASSIGN_OR_RETURN(model::Vocabulary vocabulary, VocabularyFromProto(bundle));
  std::shared_ptr<TextModel> text_model(new TextModel());
  text_model->context_length_ = vocabulary.context_length;
  text_model->digest_ = bundle.digest();
  if (vocabulary.chat_template.empty()) {
    text_model->chat_template_status_ = absl::NotFoundError("no chat template");
  } else {
    auto parsed = model::ChatTemplate::Parse(vocabulary.chat_template);
    text_model->chat_template_status_ = parsed.status();
    if (parsed.ok()) text_model->chat_template_ = *std::move(parsed);
  }
  ASSIGN_OR_RETURN(text_model->tokenizer_, model::Tokenizer::Create(std::move(vocabulary)));
  return text_model;
}

std::vector<int32_t> TextModel::EncodeText(std::string_view text, bool add_special_tokens) const {
  return tokenizer_->Encode(text, {.parse_special = true, .add_special = add_special_tokens});
}

std::variant<RenderedChat, ApiError> TextModel::RenderChat(
    const google::protobuf::RepeatedPtrField<v1::ChatMessage>& messages,
    const ChatOptions& options) const {
  if (chat_template_ == nullptr) return NoTemplateError(chat_template_status_);
  std::variant<ordered_json, ApiError> list = MessagesJson(messages);
  if (auto* error = std::get_if<ApiError>(&list)) return std::move(*error);

  std::optional<ordered_json> extra;
  if (!options.kwargs_json.empty()) {
    extra = ParseJson(options.kwargs_json);
    if (!extra || !extra->is_object()) {
      return InvalidParam("chat_template_kwargs", "chat_template_kwargs must be a JSON object");
    }
  }
  std::optional<ordered_json> tools;
  if (!options.tools_json.empty()) {
    tools = ParseJson(options.tools_json);
    if (!tools || !tools->is_array()) return InvalidParam("tools", "tools must be a JSON array");
  }

  const model::Vocabulary& vocabulary = tokenizer_->vocabulary();
  const model::ChatTemplate::Inputs inputs = {
      .messages = &std::get<ordered_json>(list),
      .tools = tools ? &*tools : nullptr,
      .add_generation_prompt = options.add_generation_prompt,
      .bos_token = TokenText(vocabulary, vocabulary.bos_id),
      .eos_token = TokenText(vocabulary, vocabulary.eos_id),
      .unk_token = TokenText(vocabulary, vocabulary.unk_id),
      .pad_token = TokenText(vocabulary, vocabulary.pad_id),
      .extra = extra ? &*extra : nullptr,
      .now_unix_seconds = absl::ToUnixSeconds(absl::Now()),
  };
  absl::StatusOr<model::RenderedPrompt> prompt = chat_template_->Render(inputs);
  if (!prompt.ok()) return RenderError(prompt.status());

  RenderedChat chat;
  chat.text = std::move(prompt->text);
  chat.untrusted = std::move(prompt->untrusted);
  return chat;
}

std::vector<int32_t> TextModel::EncodeChat(const RenderedChat& chat) const {
  return tokenizer_->Encode(
      chat.text, {.parse_special = true, .add_special = false, .untrusted = chat.untrusted});
}

}  // namespace paceline::router
