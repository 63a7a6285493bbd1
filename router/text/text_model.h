// What the router knows of a model's text: tokenizer, chat template, context length. Made once per
// tokenizer digest from what a worker hands over, then shared by all requests for its models.
// Immutable; any thread.
#ifndef PACELINE_ROUTER_TEXT_TEXT_MODEL_H_
#define PACELINE_ROUTER_TEXT_TEXT_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/repeated_field.h"
#include "model/text_span.h"
#include "model/tokenizer/tokenizer.h"
#include "proto/paceline/v1/inference.pb.h"
#include "proto/paceline/v1/worker.pb.h"
#include "router/core/api_error.h"

namespace paceline::model {
class ChatTemplate;
}  // namespace paceline::model

namespace paceline::router {

struct RenderedChat {
  std::string text;
  // Sorted ranges of `text` that came from the request.
  std::vector<model::TextSpan> untrusted;
};

struct ChatOptions {
  bool add_generation_prompt = true;
  std::string_view kwargs_json;  // JSON object of template variables; empty: none
  std::string_view tools_json;   // JSON array of tool definitions; empty: none
};

class TextModel {
 public:
  // A template that cannot be parsed is no error: the model serves text, and chats are answered
  // with what is wrong (chat_template_status). Other errors as VocabularyFromProto.
  static absl::StatusOr<std::shared_ptr<const TextModel>> Create(const v1::TokenizerBundle& bundle);
  ~TextModel();
  TextModel(const TextModel&) = delete;
  TextModel& operator=(const TextModel&) = delete;

  // Ids of a text prompt: special tokens in it are matched; `add_special_tokens` adds those that
  // the model wants around a prompt.
  std::vector<int32_t> EncodeText(std::string_view text, bool add_special_tokens) const;

  // Renders the messages with the model's chat template. Errors: no template; a template that
  // refuses the messages, with the message it raises; JSON that is not what the field asks for.
  std::variant<RenderedChat, ApiError> RenderChat(
      const google::protobuf::RepeatedPtrField<v1::ChatMessage>& messages,
      const ChatOptions& options) const;
  // Its ids: special tokens are matched only in what the template itself wrote.
  std::vector<int32_t> EncodeChat(const RenderedChat& chat) const;

  const std::shared_ptr<const model::Tokenizer>& tokenizer() const { return tokenizer_; }
  // OK, NotFound (the model has no template) or InvalidArgument (it cannot be parsed).
  const absl::Status& chat_template_status() const { return chat_template_status_; }
  int32_t context_length() const { return context_length_; }  // tokens; 0: unknown
  const std::string& digest() const { return digest_; }

 private:
  TextModel() = default;

  std::shared_ptr<const model::Tokenizer> tokenizer_;
  std::unique_ptr<const model::ChatTemplate> chat_template_;  // null: see chat_template_status_
  absl::Status chat_template_status_;
  int32_t context_length_ = 0;
  std::string digest_;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_TEXT_TEXT_MODEL_H_
