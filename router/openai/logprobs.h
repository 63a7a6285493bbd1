// The log-probability members of OpenAI choices. Stateless; any thread.
#ifndef PACELINE_ROUTER_OPENAI_LOGPROBS_H_
#define PACELINE_ROUTER_OPENAI_LOGPROBS_H_

#include <cstdint>

#include "google/protobuf/repeated_field.h"
#include "proto/paceline/v1/inference.pb.h"
#include "router/openai/json_writer.h"

namespace paceline::router {

using TokenLogprobs = google::protobuf::RepeatedPtrField<v1::TokenLogprob>;

// Completions: {"tokens","token_logprobs","top_logprobs","text_offset"}; `echoed` are the prompt's
// tokens when they stand before the output, else null.
void WriteCompletionLogprobs(const TokenLogprobs* echoed,
                             const TokenLogprobs& tokens,
                             JsonWriter& writer);

// Chat: {"content":[{"token","logprob","bytes","top_logprobs"}],"refusal":null}.
void WriteChatLogprobs(const TokenLogprobs& tokens, int32_t num_top, JsonWriter& writer);

// vLLM's prompt_logprobs: null, then {"<id>":{"logprob","rank","decoded_token"}} per prompt token:
// the token itself and the likeliest ones.
void WritePromptLogprobs(const TokenLogprobs& tokens, JsonWriter& writer);

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_OPENAI_LOGPROBS_H_
