// The one validator of requests at the router: every field's range, and every default resolved to
// what the engine runs. Adding a sampling parameter is one row here. Stateless; any thread.
#ifndef PACELINE_ROUTER_ADMISSION_VALIDATE_H_
#define PACELINE_ROUTER_ADMISSION_VALIDATE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "proto/paceline/v1/inference.pb.h"
#include "proto/paceline/v1/worker.pb.h"
#include "router/core/api_error.h"

namespace paceline::router {

// Caps of the configuration; the defaults are the contract's.
struct ParameterLimits {
  int32_t max_n = 16;
  int32_t max_logprobs = 20;  // prompt_logprobs and top_logprobs too
  int32_t max_stop = 16;
  int32_t max_stop_bytes = 256;
  int32_t max_stop_token_ids = 1024;
  int32_t max_logit_bias = 1024;
  int32_t max_messages = 4096;
  int32_t max_cache_salt_bytes = 128;
  int32_t max_request_id_bytes = 128;
  int32_t max_template_kwargs_bytes = 64 << 10;
  int32_t max_json_depth = 64;
};

// What a model allows.
struct ModelLimits {
  int32_t max_model_len = 0;  // tokens
  int32_t vocab_size = 0;     // rows of the output head
  int64_t kv_tokens = 0;      // that the largest replica's KV cache holds
};

// A request whose fields are all in range. `sampling` is complete but for max_tokens, which needs
// the prompt's length.
struct ResolvedRequest {
  bool is_chat = false;
  std::string request_id;  // empty: the caller draws one
  v1::EngineSampling sampling;
  std::optional<int32_t> max_tokens;  // as asked for
  int32_t n = 1;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  bool include_stop_str_in_output = false;
  bool skip_special_tokens = true;
  bool return_token_ids = false;
  bool echo = false;
  bool add_special_tokens = true;
  bool add_generation_prompt = true;
  int32_t priority = 0;
  std::string cache_salt;
  std::optional<int32_t> truncate_prompt_tokens;
  int64_t timeout_ms = 0;  // 0: none
};

using ValidateResult = std::variant<ResolvedRequest, ApiError>;

// Checks everything that does not need the prompt's tokens, the prompt's own token ids included.
ValidateResult ValidateRequest(const v1::GenerateRequest& request,
                               const ModelLimits& model,
                               const ParameterLimits& limits);
ValidateResult ValidateRequest(const v1::ChatRequest& request,
                               const ModelLimits& model,
                               const ParameterLimits& limits);

// The messages of a ChatRequest or TokenizeRequest: count, roles, tool_calls_json.
std::optional<ApiError> ValidateMessages(
    const google::protobuf::RepeatedPtrField<v1::ChatMessage>& messages,
    const ParameterLimits& limits);

// Token ids that a request gives under the name `param`.
std::optional<ApiError> ValidateTokenIds(const google::protobuf::RepeatedField<int64_t>& ids,
                                         int32_t vocab_size,
                                         const std::string& param);

// Resolves max_tokens for a prompt of `prompt_tokens` (after truncation) and checks that prompt and
// answer fit the context (400 context_length_exceeded, naming the counts) and some replica's cache.
std::optional<ApiError> ResolveLength(int64_t prompt_tokens,
                                      const ModelLimits& model,
                                      ResolvedRequest& request);

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_ADMISSION_VALIDATE_H_
