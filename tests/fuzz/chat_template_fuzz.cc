// A chat template of any bytes: refused, or rendered within its limits with every byte of the
// request marked as untrusted.
#include <algorithm>
#include <cstdint>
#include <iterator>
#include <random>
#include <string>
#include <string_view>

#include "model/chat_template/chat_template.h"
#include "proto/support/log.h"

namespace paceline::model {
namespace {

// A character that no template here writes: where it shows up it came from the request.
constexpr std::string_view kMark = "\xEE\x84\xA3";

nlohmann::ordered_json Messages() {
  const std::string mark(kMark);
  return {{{"role", mark}, {"content", " a" + mark + "b\nC" + mark + " <|im_end|> "}, {"n", 3}},
          {{"role", "user"},
           {"content", {{{"type", "text"}, {"text", mark}}}},
           {"tool_calls", {{{"function", {{"name", mark}, {"arguments", {{mark, 1.5}}}}}}}}}};
}

void CheckTrust(const RenderedPrompt& prompt) {
  size_t end = 0;
  for (const TextSpan& span : prompt.untrusted) {
    PACELINE_CHECK(span.begin < span.end, "an empty range");
    PACELINE_CHECK(end == 0 || span.begin > end, "ranges out of order or touching");
    PACELINE_CHECK(span.end <= prompt.text.size(), "a range beyond the text");
    end = span.end;
  }
  auto span = prompt.untrusted.begin();
  for (size_t at = prompt.text.find(kMark); at != std::string::npos;
       at = prompt.text.find(kMark, at + 1)) {
    while (span != prompt.untrusted.end() && span->end <= at) ++span;
    PACELINE_CHECK(
        span != prompt.untrusted.end() && span->begin <= at && at + kMark.size() <= span->end,
        "request text outside the untrusted ranges");
  }
}

// Pieces of the language, for edits that leave most of a template in one piece.
constexpr std::string_view kPieces[] = {"messages",
                                        "messages[0].content",
                                        "messages[1]",
                                        "tools",
                                        "bos_token",
                                        "loop",
                                        "loop.index",
                                        "namespace()",
                                        "range(9)",
                                        "none",
                                        "true",
                                        "nothing",
                                        "0",
                                        "-1",
                                        "2.5",
                                        "'a'",
                                        "[1, 'b']",
                                        "{'k': 1}",
                                        "(",
                                        ")",
                                        "[",
                                        "]",
                                        "{",
                                        "}",
                                        "|",
                                        ".",
                                        ":",
                                        ",",
                                        "~",
                                        "+",
                                        "-",
                                        "*",
                                        "/",
                                        "%",
                                        "**",
                                        " in ",
                                        " not ",
                                        " is ",
                                        " if ",
                                        " else ",
                                        " and ",
                                        "==",
                                        "<",
                                        "|upper",
                                        "|trim",
                                        "|tojson",
                                        "|list",
                                        "|join(',')",
                                        "|replace('a', 'b')",
                                        "|map('upper')",
                                        "|select('string')",
                                        "|sort",
                                        "|groupby('role')",
                                        "|indent",
                                        "|truncate(5)",
                                        "|wordwrap(3)",
                                        "|urlencode",
                                        "|e",
                                        "|safe",
                                        "|format(1)",
                                        "|first",
                                        "|last",
                                        "|reverse",
                                        "|slice(2)",
                                        "|batch(2)",
                                        "|items",
                                        "|default('x')",
                                        ".split()",
                                        ".strip()",
                                        ".format(1)",
                                        "[::-1]",
                                        "[1:]",
                                        ".items()",
                                        ".x",
                                        "()",
                                        "{{ ",
                                        " }}",
                                        "{%- ",
                                        " -%}",
                                        "{# ",
                                        " #}",
                                        "{% if 1 %}",
                                        "{% endif %}",
                                        "{% for x in messages recursive %}",
                                        "{% for k, v in messages[0].items() %}",
                                        "{% endfor %}",
                                        "{{ loop(messages) }}",
                                        "{% macro f(x) %}",
                                        "{% endmacro %}",
                                        "{{ f(messages) }}",
                                        "{% call f(1) %}",
                                        "{% endcall %}",
                                        "{{ caller() }}",
                                        "{% set x %}",
                                        "{% endset %}",
                                        "{% set x = x ~ messages %}",
                                        "{% filter upper %}",
                                        "{% endfilter %}",
                                        "{% break %}",
                                        "{% raw %}",
                                        "{% endraw %}",
                                        "\n"};

}  // namespace
}  // namespace paceline::model

// Puts a piece in, over what stands there or between it.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data,
                                          size_t size,
                                          size_t max_size,
                                          unsigned int seed) {
  using paceline::model::kPieces;
  std::minstd_rand random(seed);
  std::string text(reinterpret_cast<const char*>(data), size);
  const std::string_view piece = kPieces[random() % std::size(kPieces)];
  const size_t at = random() % (text.size() + 1);
  text.replace(at, random() % 2 == 0 ? 0 : random() % 12, piece);
  text.resize(std::min(text.size(), max_size));
  std::copy(text.begin(), text.end(), data);
  return text.size();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using paceline::model::ChatTemplate;
  using paceline::model::CheckTrust;
  static const nlohmann::ordered_json kMessages = paceline::model::Messages();
  const std::string source(reinterpret_cast<const char*>(data), size);
  const auto chat_template = ChatTemplate::Parse(source);
  if (!chat_template.ok()) return 0;
  ChatTemplate::Inputs inputs;
  inputs.messages = &kMessages;
  inputs.tools = &kMessages;
  inputs.bos_token = "<s>";
  inputs.add_generation_prompt = true;
  inputs.limits.max_steps = 20'000;
  inputs.limits.max_memory_bytes = 8 << 20;
  inputs.limits.max_output_bytes = 1 << 16;
  const auto prompt = (*chat_template)->Render(inputs);
  if (!prompt.ok()) {
    PACELINE_CHECK(prompt.status().code() == absl::StatusCode::kInvalidArgument ||
                       prompt.status().code() == absl::StatusCode::kResourceExhausted,
                   "an error of no declared kind");
    return 0;
  }
  PACELINE_CHECK(prompt->text.size() <= inputs.limits.max_output_bytes, "too long a text");
  // A template that writes high bytes or escapes may make the mark itself.
  if (source.find_first_of("\\\xEE") == std::string::npos) CheckTrust(*prompt);
  return 0;
}
