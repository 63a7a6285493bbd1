// Answers as OpenAI objects, with vLLM's extra members where the request asked for them. No HTTP in
// here: the offline command writes its output lines with the same functions.
#ifndef PACELINE_ROUTER_OPENAI_RESPONSES_H_
#define PACELINE_ROUTER_OPENAI_RESPONSES_H_

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "proto/paceline/v1/inference.pb.h"
#include "router/core/api_error.h"
#include "router/core/call.h"
#include "router/openai/requests.h"

namespace paceline::router {

struct ResponseHeader {
  std::string request_id;  // shown as cmpl-… or chatcmpl-…
  std::string model;       // as the client named it; empty: as the chunks name it
  int64_t created_unix_seconds = 0;
};

// The whole answer. `prompts` holds the answer to each prompt, in order; the choices of prompt i
// are numbered from i * n. Any thread.
std::string ResponseJson(const ResponseShape& shape,
                         const ResponseHeader& header,
                         absl::Span<const v1::GenerateResponse> prompts);

// Writes one answer as server-sent events. Owned by the stream; not thread-safe.
class StreamWriter {
 public:
  StreamWriter(ResponseShape shape, ResponseHeader header);

  // Appends the events for `chunk`, which belongs to prompt number `prompt`.
  void Chunk(int32_t prompt, const v1::GenerateChunk& chunk, std::string* out);
  // Appends the usage event if one was asked for, and the end of the stream.
  void Done(const v1::Usage& total, std::string* out);
  // Appends the event that ends a stream that failed.
  static void Error(const ApiError& error, std::string* out);

 private:
  ResponseShape shape_;
  ResponseHeader header_;
  std::string id_;
  std::set<int64_t> started_;     // choices that had a chunk
  std::vector<v1::Usage> usage_;  // as last seen, by prompt
};

v1::Usage SumOf(absl::Span<const v1::Usage> usages);

std::string TokenizeJson(const TokenizeResult& result, bool with_token_strs);
std::string DetokenizeJson(const std::string& text);
std::string ModelListJson(absl::Span<const v1::ModelInfo> models);
std::string ModelJson(const v1::ModelInfo& model);

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_OPENAI_RESPONSES_H_
