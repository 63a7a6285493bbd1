// OpenAI request bodies to the messages of proto/paceline/v1. No HTTP in here: the offline command
// reads its input lines with the same functions. Stateless; any thread.
//
// Checked here: JSON, field names, types and widths. Not here: ranges, which the core checks for
// gRPC and HTTP alike. What is not built and has no proto field is refused unless it has its
// default.
#ifndef PACELINE_ROUTER_OPENAI_REQUESTS_H_
#define PACELINE_ROUTER_OPENAI_REQUESTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "proto/paceline/v1/inference.pb.h"
#include "router/core/api_error.h"

namespace paceline::router {

inline constexpr size_t kMaxPrompts = 128;        // per completions body
inline constexpr size_t kMaxMessages = 4096;      // per chat body
inline constexpr size_t kMaxContentParts = 4096;  // per message
inline constexpr size_t kMaxTools = 128;

struct ParseOptions {
  bool allow_unknown_fields = false;
};

// What the answer must look like.
struct ResponseShape {
  bool is_chat = false;
  int32_t n = 1;  // choices per prompt
  int32_t num_prompts = 1;
  bool include_usage = false;           // streams: one more chunk with the usage
  bool continuous_usage_stats = false;  // streams: usage on every chunk
  bool return_token_ids = false;
  bool logprobs = false;
  int32_t num_top_logprobs = 0;
  bool prompt_logprobs = false;  // asked for by name
  bool echo = false;
  std::vector<std::string> stop;  // to tell stop texts from stop token ids
};

struct InferenceRequest {
  // One call per prompt, in order; a chat has exactly one.
  std::vector<std::variant<v1::GenerateRequest, v1::ChatRequest>> calls;
  ResponseShape shape;
  bool stream = false;
};

std::variant<InferenceRequest, ApiError> ParseCompletion(std::string_view body,
                                                         const ParseOptions& options = {});
std::variant<InferenceRequest, ApiError> ParseChatCompletion(std::string_view body,
                                                             const ParseOptions& options = {});
std::variant<v1::TokenizeRequest, ApiError> ParseTokenize(std::string_view body,
                                                          const ParseOptions& options = {});
std::variant<v1::DetokenizeRequest, ApiError> ParseDetokenize(std::string_view body,
                                                              const ParseOptions& options = {});

// Every field name that the body may have; for tests and documentation.
std::vector<std::string_view> CompletionFieldNames();
std::vector<std::string_view> ChatCompletionFieldNames();

// Sets the request id of every call that has none; with several prompts each gets its number added.
// Returns the id to show: the body's own, or else `id`. REQUIRES: IsValidRequestId(id).
std::string AssignRequestIds(std::string id, InferenceRequest& request);

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_OPENAI_REQUESTS_H_
