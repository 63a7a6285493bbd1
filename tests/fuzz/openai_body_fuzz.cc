// A request body of any bytes: refused with a clean error, or everything in it is well-formed.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

#include "proto/support/log.h"
#include "router/openai/errors.h"
#include "router/openai/json.h"
#include "router/openai/json_writer.h"
#include "router/openai/requests.h"

namespace {

using namespace paceline::router;  // NOLINT

bool IsUtf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = Utf8CharacterLength(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

void CheckError(const ApiError& error) {
  const int status = HttpStatusOf(error);
  PACELINE_CHECK(status == 400 || status == 413, "status of a bad body");
  PACELINE_CHECK(error.param.size() < 256, "long param");
  PACELINE_CHECK(
      std::all_of(
          error.param.begin(), error.param.end(), [](char c) { return c > ' ' && c < 0x7f; }),
      "param is not printable");
  PACELINE_CHECK(nlohmann::json::accept(ErrorJson(error)), "error is not JSON");
}

void CheckJson(std::string_view body) {
  const auto parsed = ParseJson(body);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return CheckError(*error);
  const auto& document = std::get<nlohmann::json>(parsed);
  PACELINE_CHECK(nlohmann::json::accept(body), "accepted what is not JSON");
  const std::string text = document.dump();
  const auto again = ParseJson(text, {.max_bytes = text.size()});
  PACELINE_CHECK(std::holds_alternative<nlohmann::json>(again), "own output is refused");
  PACELINE_CHECK(std::get<nlohmann::json>(again) == document, "own output reads differently");
}

void CheckInference(std::variant<InferenceRequest, ApiError> parsed) {
  if (const auto* error = std::get_if<ApiError>(&parsed)) return CheckError(*error);
  auto& request = std::get<InferenceRequest>(parsed);
  PACELINE_CHECK(!request.calls.empty() && request.calls.size() <= kMaxPrompts, "number of calls");
  AssignRequestIds("id", request);
  for (const auto& call : request.calls) {
    if (const auto* generate = std::get_if<paceline::v1::GenerateRequest>(&call)) {
      PACELINE_CHECK(generate->prompt_case() != 0, "no prompt");
      PACELINE_CHECK(IsUtf8(generate->text()), "prompt is not UTF-8");
    } else {
      const auto& chat = std::get<paceline::v1::ChatRequest>(call);
      PACELINE_CHECK(!chat.messages().empty(), "no messages");
      for (const auto& message : chat.messages()) {
        PACELINE_CHECK(!message.role().empty() && IsUtf8(message.content()), "bad message");
      }
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  CheckJson(body);
  CheckInference(ParseCompletion(body));
  CheckInference(ParseChatCompletion(body));
  CheckInference(ParseChatCompletion(body, {.allow_unknown_fields = true}));
  if (auto parsed = ParseTokenize(body); std::holds_alternative<ApiError>(parsed)) {
    CheckError(std::get<ApiError>(parsed));
  }
  if (auto parsed = ParseDetokenize(body); std::holds_alternative<ApiError>(parsed)) {
    CheckError(std::get<ApiError>(parsed));
  }
  return 0;
}
