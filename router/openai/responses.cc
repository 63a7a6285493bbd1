#include "router/openai/responses.h"

#include <algorithm>
#include <string_view>

#include "absl/strings/numbers.h"
#include "router/openai/errors.h"
#include "router/openai/json_writer.h"
#include "router/openai/logprobs.h"

namespace paceline::router {
namespace {

std::string ShownId(const ResponseShape& shape, const ResponseHeader& header) {
  return (shape.is_chat ? "chatcmpl-" : "cmpl-") + header.request_id;
}

void WriteFinishReason(v1::FinishReason reason, JsonWriter& writer) {
  writer.Key("finish_reason");
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      writer.String("stop");
      return;
    case v1::FINISH_REASON_LENGTH:
      writer.String("length");
      return;
    case v1::FINISH_REASON_TOOL_CALLS:
      writer.String("tool_calls");
      return;
    case v1::FINISH_REASON_DEADLINE:
      writer.String("deadline");
      return;
    case v1::FINISH_REASON_CANCELLED:
      writer.String("cancelled");
      return;
    case v1::FINISH_REASON_ERROR:
      writer.String("error");
      return;
    default:
      writer.Null();
  }
}

// A stop text as a string, a stop token id as a number, anything else as null.
void WriteStopReason(const ResponseShape& shape, const std::string& reason, JsonWriter& writer) {
  writer.Key("stop_reason");
  int64_t id;
  if (reason.empty()) {
    writer.Null();
  } else if (std::find(shape.stop.begin(), shape.stop.end(), reason) == shape.stop.end() &&
             absl::SimpleAtoi(reason, &id)) {
    writer.Int(id);
  } else {
    writer.String(reason);
  }
}

void WriteIds(std::string_view key,
              const google::protobuf::RepeatedField<int32_t>& ids,
              JsonWriter& writer) {
  writer.Key(key).BeginArray();
  for (const int32_t id : ids) writer.Int(id);
  writer.EndArray();
}

void WriteUsage(const v1::Usage& usage, JsonWriter& writer) {
  writer.BeginObject();
  writer.Key("prompt_tokens").Int(usage.prompt_tokens());
  writer.Key("completion_tokens").Int(usage.completion_tokens());
  writer.Key("total_tokens").Int(usage.total_tokens());
  writer.Key("prompt_tokens_details").BeginObject();
  writer.Key("cached_tokens").Int(usage.cached_tokens()).EndObject();
  writer.EndObject();
}

void WriteHead(std::string_view object,
               const ResponseHeader& header,
               std::string_view id,
               const std::string& model,
               JsonWriter& writer) {
  writer.BeginObject();
  writer.Key("id").String(id);
  writer.Key("object").String(object);
  writer.Key("created").Int(header.created_unix_seconds);
  writer.Key("model").String(header.model.empty() ? model : header.model);
}

// Choice and GenerateChunk have the same members.
template <class Part>
void WriteLogprobsMember(const ResponseShape& shape, const Part& part, JsonWriter& writer) {
  writer.Key("logprobs");
  if (!shape.logprobs) {
    writer.Null();
  } else if (shape.is_chat) {
    WriteChatLogprobs(part.logprobs(), shape.num_top_logprobs, writer);
  } else {
    WriteCompletionLogprobs(
        shape.echo ? &part.prompt_logprobs() : nullptr, part.logprobs(), writer);
  }
}

template <class Part>
void WriteExtras(const ResponseShape& shape, const Part& part, JsonWriter& writer) {
  WriteStopReason(shape, part.stop_reason(), writer);
  if (shape.return_token_ids) WriteIds("token_ids", part.token_ids(), writer);
  if (shape.prompt_logprobs && !part.prompt_logprobs().empty()) {
    writer.Key("prompt_logprobs");
    WritePromptLogprobs(part.prompt_logprobs(), writer);
  }
}

void WriteChoice(const ResponseShape& shape,
                 int64_t index,
                 const v1::GenerateResponse& prompt,
                 const v1::Choice& choice,
                 JsonWriter& writer) {
  writer.BeginObject().Key("index").Int(index);
  if (shape.is_chat) {
    writer.Key("message").BeginObject();
    writer.Key("role").String("assistant");
    writer.Key("content").String(choice.text());
    writer.Key("refusal").Null().EndObject();
  } else {
    writer.Key("text").String(choice.text());
  }
  WriteLogprobsMember(shape, choice, writer);
  WriteFinishReason(choice.finish_reason(), writer);
  WriteExtras(shape, choice, writer);
  if (shape.return_token_ids && !shape.is_chat) {
    WriteIds("prompt_token_ids", prompt.prompt_token_ids(), writer);
  }
  writer.EndObject();
}

void WriteModel(const v1::ModelInfo& model, JsonWriter& writer) {
  writer.BeginObject();
  writer.Key("id").String(model.id());
  writer.Key("object").String("model");
  writer.Key("created").Int(model.created_unix_seconds());
  writer.Key("owned_by").String("paceline");
  writer.Key("max_model_len").Int(model.max_model_len());
  writer.Key("architecture").String(model.architecture());
  writer.Key("quantization").String(model.quantization());
  writer.Key("vocab_size").Int(model.vocab_size());
  writer.Key("num_parameters").Int(model.num_parameters());
  writer.Key("tensor_parallel_size").Int(model.tensor_parallel_size());
  writer.Key("pipeline_parallel_size").Int(model.pipeline_parallel_size());
  writer.Key("replicas_ready").Int(model.replicas_ready());
  writer.EndObject();
}

}  // namespace

v1::Usage SumOf(absl::Span<const v1::Usage> usages) {
  v1::Usage sum;
  for (const v1::Usage& usage : usages) {
    sum.set_prompt_tokens(sum.prompt_tokens() + usage.prompt_tokens());
    sum.set_completion_tokens(sum.completion_tokens() + usage.completion_tokens());
    sum.set_total_tokens(sum.total_tokens() + usage.total_tokens());
    sum.set_cached_tokens(sum.cached_tokens() + usage.cached_tokens());
  }
  return sum;
}

std::string ResponseJson(const ResponseShape& shape,
                         const ResponseHeader& header,
                         absl::Span<const v1::GenerateResponse> prompts) {
  std::string out;
  JsonWriter writer(&out);
  const std::string model = prompts.empty() ? "" : prompts.front().model();
  WriteHead(shape.is_chat ? "chat.completion" : "text_completion",
            header,
            ShownId(shape, header),
            model,
            writer);
  writer.Key("choices").BeginArray();
  std::vector<v1::Usage> usages;
  for (size_t i = 0; i < prompts.size(); ++i) {
    for (const v1::Choice& choice : prompts[i].choices()) {
      const int64_t index = static_cast<int64_t>(i) * shape.n + choice.index();
      WriteChoice(shape, index, prompts[i], choice, writer);
    }
    usages.push_back(prompts[i].usage());
  }
  writer.EndArray().Key("usage");
  WriteUsage(SumOf(usages), writer);
  if (shape.return_token_ids && prompts.size() == 1) {
    WriteIds("prompt_token_ids", prompts.front().prompt_token_ids(), writer);
  }
  writer.EndObject();
  return out;
}

StreamWriter::StreamWriter(ResponseShape shape, ResponseHeader header)
    : shape_(std::move(shape)),
      header_(std::move(header)),
      id_(ShownId(shape_, header_)),
      usage_(shape_.num_prompts) {}

void StreamWriter::Chunk(int32_t prompt, const v1::GenerateChunk& chunk, std::string* out) {
  if (header_.model.empty()) header_.model = chunk.model();
  if (chunk.has_usage()) usage_[prompt] = chunk.usage();
  const int64_t index = int64_t{prompt} * shape_.n + chunk.choice_index();
  const bool is_first = started_.insert(index).second;

  out->append("data: ");
  JsonWriter writer(out);
  WriteHead(shape_.is_chat ? "chat.completion.chunk" : "text_completion",
            header_,
            id_,
            header_.model,
            writer);
  writer.Key("choices").BeginArray().BeginObject().Key("index").Int(index);
  if (shape_.is_chat) {
    writer.Key("delta").BeginObject();
    if (is_first) writer.Key("role").String("assistant");
    if (is_first || !chunk.text().empty()) writer.Key("content").String(chunk.text());
    writer.EndObject();
  } else {
    writer.Key("text").String(chunk.text());
  }
  WriteLogprobsMember(shape_, chunk, writer);
  WriteFinishReason(chunk.finish_reason(), writer);
  WriteExtras(shape_, chunk, writer);
  const bool has_prompt_ids = shape_.return_token_ids && !chunk.prompt_token_ids().empty();
  if (has_prompt_ids && !shape_.is_chat) {
    WriteIds("prompt_token_ids", chunk.prompt_token_ids(), writer);
  }
  writer.EndObject().EndArray();
  if (has_prompt_ids && shape_.num_prompts == 1) {
    WriteIds("prompt_token_ids", chunk.prompt_token_ids(), writer);
  }
  if (shape_.continuous_usage_stats) {
    writer.Key("usage");
    WriteUsage(SumOf(usage_), writer);
  } else if (shape_.include_usage) {
    writer.Key("usage").Null();
  }
  writer.EndObject();
  out->append("\n\n");
}

void StreamWriter::Done(const v1::Usage& total, std::string* out) {
  if (shape_.include_usage) {
    out->append("data: ");
    JsonWriter writer(out);
    WriteHead(shape_.is_chat ? "chat.completion.chunk" : "text_completion",
              header_,
              id_,
              header_.model,
              writer);
    writer.Key("choices").BeginArray().EndArray().Key("usage");
    WriteUsage(total, writer);
    writer.EndObject();
    out->append("\n\n");
  }
  out->append("data: [DONE]\n\n");
}

void StreamWriter::Error(const ApiError& error, std::string* out) {
  out->append("data: ").append(ErrorJson(error)).append("\n\n");
}

std::string TokenizeJson(const TokenizeResult& result, bool with_token_strs) {
  std::string out;
  JsonWriter writer(&out);
  writer.BeginObject();
  writer.Key("count").Int(static_cast<int64_t>(result.token_ids.size()));
  writer.Key("max_model_len").Int(result.max_model_len);
  writer.Key("tokens").BeginArray();
  for (const int32_t id : result.token_ids) writer.Int(id);
  writer.EndArray().Key("token_strs");
  if (with_token_strs) {
    writer.BeginArray();
    for (const std::string& token : result.token_strs) writer.String(token);
    writer.EndArray();
  } else {
    writer.Null();
  }
  writer.EndObject();
  return out;
}

std::string DetokenizeJson(const std::string& text) {
  std::string out;
  JsonWriter(&out).BeginObject().Key("prompt").String(text).EndObject();
  return out;
}

std::string ModelListJson(absl::Span<const v1::ModelInfo> models) {
  std::string out;
  JsonWriter writer(&out);
  writer.BeginObject().Key("object").String("list").Key("data").BeginArray();
  for (const v1::ModelInfo& model : models) WriteModel(model, writer);
  writer.EndArray().EndObject();
  return out;
}

std::string ModelJson(const v1::ModelInfo& model) {
  std::string out;
  JsonWriter writer(&out);
  WriteModel(model, writer);
  return out;
}

}  // namespace paceline::router
