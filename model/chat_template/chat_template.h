// A model's chat template: the Jinja program that turns messages into one prompt. Our own engine,
// with the language and meaning of jinja2 as Hugging Face sets it up (immutable sandbox,
// trim_blocks, lstrip_blocks, loop controls, generation blocks); no access to anything but its
// inputs. Owned by the model's text bundle. Immutable; any thread may render at any time.
#ifndef PACELINE_MODEL_CHAT_TEMPLATE_CHAT_TEMPLATE_H_
#define PACELINE_MODEL_CHAT_TEMPLATE_CHAT_TEMPLATE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/text_span.h"
#include "nlohmann/json.hpp"

namespace paceline::model {

struct RenderedPrompt {
  std::string text;
  // The bytes that came from the request, in order, disjoint: special-token text in them is only
  // text. Everything else comes from the template itself or is a special token given to it.
  std::vector<TextSpan> untrusted;
};

class ChatTemplate {
 public:
  // What one rendering may use. A real template takes well under 1% of it.
  struct Limits {
    int64_t max_steps = 20'000'000;              // evaluated nodes; 128 bytes of text count as one
    int max_depth = 400;                         // nested expressions, statements and macro calls
    size_t max_output_bytes = size_t{64} << 20;  // also of any single string on the way
    int64_t max_memory_bytes = int64_t{512} << 20;
    size_t max_stack_bytes = size_t{400} << 10;
  };

  // The pointers may be null (the variable is then None; `messages`: an empty list) and must stay
  // valid during Render.
  struct Inputs {
    const nlohmann::ordered_json* messages = nullptr;
    const nlohmann::ordered_json* tools = nullptr;
    const nlohmann::ordered_json* documents = nullptr;
    bool add_generation_prompt = false;
    // Undefined in the template where absent. Trusted.
    std::optional<std::string> bos_token;
    std::optional<std::string> eos_token;
    std::optional<std::string> unk_token;
    std::optional<std::string> pad_token;
    // chat_template_kwargs: an object whose entries become variables. They may replace the special
    // tokens (and are then untrusted), not the four variables above.
    const nlohmann::ordered_json* extra = nullptr;
    int64_t now_unix_seconds = 0;  // for strftime_now, in UTC
    Limits limits;
  };

  // InvalidArgument "line N: …" for a syntax error and for what a chat template may not do
  // (include, import, extends).
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Parse(std::string source);
  ~ChatTemplate();
  ChatTemplate(const ChatTemplate&) = delete;
  ChatTemplate& operator=(const ChatTemplate&) = delete;

  // InvalidArgument where the template or its data is at fault, "line N: …" except for the
  // template's own raise_exception, whose message is passed on as it is (see IsTemplateRaised);
  // ResourceExhausted over a limit. Messages may hold names of the template's variables and
  // attributes, and raise_exception may quote the request.
  absl::StatusOr<RenderedPrompt> Render(const Inputs& inputs) const;

  const std::string& source() const { return source_; }

 private:
  struct Program;
  explicit ChatTemplate(std::string source);

  std::string source_;
  std::unique_ptr<const Program> program_;
};

// Whether Render failed because the template called raise_exception.
bool IsTemplateRaised(const absl::Status& status);

}  // namespace paceline::model

#endif  // PACELINE_MODEL_CHAT_TEMPLATE_CHAT_TEMPLATE_H_
