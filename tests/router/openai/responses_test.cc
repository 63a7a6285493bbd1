#include "router/openai/responses.h"

#include <cmath>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "router/core/chunk_collector.h"
#include "router/openai/errors.h"

namespace paceline::router {
namespace {

using nlohmann::json;

const ResponseHeader kHeader{.request_id = "r1", .created_unix_seconds = 1700000000};

v1::GenerateChunk MakeChunk(const std::string& text,
                            v1::FinishReason finish = v1::FINISH_REASON_UNSPECIFIED,
                            int32_t index = 0) {
  v1::GenerateChunk chunk;
  chunk.set_model("tiny");
  chunk.set_text(text);
  chunk.set_choice_index(index);
  chunk.set_finish_reason(finish);
  return chunk;
}

v1::Usage MakeUsage(int prompt, int completion, int cached) {
  v1::Usage usage;
  usage.set_prompt_tokens(prompt);
  usage.set_completion_tokens(completion);
  usage.set_total_tokens(prompt + completion);
  usage.set_cached_tokens(cached);
  return usage;
}

v1::TokenLogprob MakeLogprob(
    int32_t id, float logprob, const std::string& token, int32_t rank, int32_t offset = 0) {
  v1::TokenLogprob entry;
  entry.set_token_id(id);
  entry.set_logprob(logprob);
  entry.set_token(token);
  entry.set_rank(rank);
  entry.set_text_offset(offset);
  return entry;
}

void AddTop(v1::TokenLogprob& entry, int32_t id, float logprob, const std::string& token) {
  v1::TopLogprob& top = *entry.add_top();
  top.set_token_id(id);
  top.set_logprob(logprob);
  top.set_token(token);
}

json Whole(const ResponseShape& shape, std::vector<v1::GenerateChunk> chunks) {
  ChunkCollector collector;
  for (auto& chunk : chunks) collector.Add(std::move(chunk));
  const std::vector<v1::GenerateResponse> prompts = {collector.Take(MakeUsage(5, 2, 3))};
  return json::parse(ResponseJson(shape, kHeader, prompts));
}

// The events of a stream, the end mark included.
std::vector<std::string> Events(const std::string& stream) {
  std::vector<std::string> events;
  size_t begin = 0;
  while (begin < stream.size()) {
    const size_t end = stream.find("\n\n", begin);
    EXPECT_NE(end, std::string::npos);
    const std::string event = stream.substr(begin, end - begin);
    EXPECT_EQ(event.substr(0, 6), "data: ");
    EXPECT_EQ(event.find_first_of("\r\n"), std::string::npos);
    events.push_back(event.substr(6));
    begin = end + 2;
  }
  return events;
}

TEST(CompletionResponseTest, HasOpenAiShape) {
  const json want = json::parse(R"({
    "id":"cmpl-r1","object":"text_completion","created":1700000000,"model":"tiny",
    "choices":[{"index":0,"text":"Hello world","logprobs":null,"finish_reason":"stop",
                "stop_reason":null}],
    "usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7,
             "prompt_tokens_details":{"cached_tokens":3}}})");
  EXPECT_EQ(Whole({}, {MakeChunk("Hello"), MakeChunk(" world", v1::FINISH_REASON_STOP)}), want);
}

TEST(CompletionResponseTest, NumbersChoicesAcrossPrompts) {
  std::vector<v1::GenerateResponse> prompts;
  for (int prompt = 0; prompt < 2; ++prompt) {
    ChunkCollector collector;
    for (const int index : {1, 0}) {
      collector.Add(MakeChunk("x", v1::FINISH_REASON_LENGTH, index));
    }
    prompts.push_back(collector.Take(MakeUsage(5, 2, 0)));
  }
  const json got = json::parse(ResponseJson({.n = 2, .num_prompts = 2}, kHeader, prompts));
  ASSERT_EQ(got["choices"].size(), 4u);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(got["choices"][i]["index"], i);
  EXPECT_EQ(got["usage"]["total_tokens"], 14);
}

TEST(CompletionResponseTest, ShowsLogprobsAsOpenAiDoes) {
  v1::GenerateChunk chunk = MakeChunk("ab", v1::FINISH_REASON_STOP);
  v1::TokenLogprob& first = *chunk.add_logprobs();
  first = MakeLogprob(1, -0.5F, "a", 1, 0);
  AddTop(first, 1, -0.5F, "a");
  AddTop(first, 2, -1.5F, "\xE2\x82");
  *chunk.add_logprobs() = MakeLogprob(3, -INFINITY, "b", 9, 1);
  const json want = json::parse(R"({"text_offset":[0,1],"token_logprobs":[-0.5,-9999.0],
    "tokens":["a","b"],
    "top_logprobs":[{"a":-0.5,"bytes:\\xe2\\x82":-1.5},{"b":-9999.0}]})");
  EXPECT_EQ(Whole({.logprobs = true}, {chunk})["choices"][0]["logprobs"], want);
}

TEST(CompletionResponseTest, PutsEchoedTokensBeforeTheOutput) {
  v1::GenerateChunk chunk = MakeChunk("h\xC3\xA9llo", v1::FINISH_REASON_STOP);
  *chunk.add_prompt_logprobs() = MakeLogprob(1, 0, "h", 0);
  *chunk.add_prompt_logprobs() = MakeLogprob(2, -1.0F, "\xC3\xA9", 3);
  *chunk.add_logprobs() = MakeLogprob(3, -0.25F, "llo", 1, 2);
  const json choice = Whole({.logprobs = true, .echo = true}, {chunk})["choices"][0];
  EXPECT_EQ(choice["logprobs"],
            json::parse(R"({"text_offset":[0,1,2],"token_logprobs":[null,-1.0,-0.25],
                            "tokens":["h","\u00e9","llo"],
                            "top_logprobs":[null,{"\u00e9":-1.0},{"llo":-0.25}]})"));
  EXPECT_FALSE(choice.contains("prompt_logprobs"));
}

TEST(CompletionResponseTest, ShowsTokenIdsAndPromptLogprobsAsVllmDoes) {
  v1::GenerateChunk chunk = MakeChunk("a", v1::FINISH_REASON_STOP);
  chunk.add_token_ids(7);
  chunk.add_prompt_token_ids(1);
  chunk.add_prompt_token_ids(2);
  *chunk.add_prompt_logprobs() = MakeLogprob(1, 0, "x", 0);
  v1::TokenLogprob& second = *chunk.add_prompt_logprobs();
  second = MakeLogprob(2, -2.0F, "y", 5);
  AddTop(second, 9, -0.5F, "z");
  const json got = Whole({.return_token_ids = true, .prompt_logprobs = true}, {chunk});
  const json& choice = got["choices"][0];
  EXPECT_EQ(got["prompt_token_ids"], json({1, 2}));
  EXPECT_EQ(choice["prompt_token_ids"], json({1, 2}));
  EXPECT_EQ(choice["token_ids"], json({7}));
  EXPECT_EQ(choice["prompt_logprobs"],
            json::parse(R"([null,{"2":{"logprob":-2.0,"rank":5,"decoded_token":"y"},
                                  "9":{"logprob":-0.5,"rank":1,"decoded_token":"z"}}])"));
}

TEST(CompletionResponseTest, StopReasonIsTextOrTokenId) {
  v1::GenerateChunk chunk = MakeChunk("", v1::FINISH_REASON_STOP);
  chunk.set_stop_reason("42");
  EXPECT_EQ(Whole({}, {chunk})["choices"][0]["stop_reason"], 42);
  EXPECT_EQ(Whole({.stop = {"42"}}, {chunk})["choices"][0]["stop_reason"], "42");
}

TEST(ChatResponseTest, HasOpenAiShape) {
  v1::GenerateChunk chunk = MakeChunk("Hi", v1::FINISH_REASON_LENGTH);
  *chunk.add_logprobs() = MakeLogprob(1, -0.5F, "Hi", 1);
  AddTop(*chunk.mutable_logprobs(0), 1, -0.5F, "Hi");
  AddTop(*chunk.mutable_logprobs(0), 2, -1.5F, "\xFF");
  const json got = Whole({.is_chat = true, .logprobs = true, .num_top_logprobs = 2}, {chunk});
  const json want = json::parse(R"({
    "id":"chatcmpl-r1","object":"chat.completion","created":1700000000,"model":"tiny",
    "choices":[{"index":0,"message":{"role":"assistant","content":"Hi","refusal":null},
      "logprobs":{"content":[{"token":"Hi","logprob":-0.5,"bytes":[72,105],"top_logprobs":[
        {"token":"Hi","logprob":-0.5,"bytes":[72,105]},
        {"token":"\ufffd","logprob":-1.5,"bytes":[255]}]}],"refusal":null},
      "finish_reason":"length","stop_reason":null}],
    "usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7,
             "prompt_tokens_details":{"cached_tokens":3}}})");
  EXPECT_EQ(got, want);
}

TEST(StreamTest, ChatBeginsWithTheRoleAndEndsWithDone) {
  StreamWriter writer({.is_chat = true}, kHeader);
  std::string out;
  writer.Chunk(0, MakeChunk("Hel"), &out);
  writer.Chunk(0, MakeChunk("lo\n"), &out);
  writer.Chunk(0, MakeChunk("", v1::FINISH_REASON_STOP), &out);
  writer.Done(MakeUsage(5, 2, 0), &out);
  const auto events = Events(out);
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events.back(), "[DONE]");
  const json first = json::parse(events[0]);
  EXPECT_EQ(first["object"], "chat.completion.chunk");
  EXPECT_EQ(first["id"], "chatcmpl-r1");
  EXPECT_EQ(first["choices"][0]["delta"], json({{"role", "assistant"}, {"content", "Hel"}}));
  EXPECT_EQ(first["choices"][0]["finish_reason"], nullptr);
  EXPECT_FALSE(first.contains("usage"));
  EXPECT_EQ(json::parse(events[1])["choices"][0]["delta"], json({{"content", "lo\n"}}));
  const json last = json::parse(events[2]);
  EXPECT_EQ(last["choices"][0]["delta"], json::object());
  EXPECT_EQ(last["choices"][0]["finish_reason"], "stop");
}

TEST(StreamTest, EveryChoiceGetsItsOwnRole) {
  StreamWriter writer({.is_chat = true, .n = 2}, kHeader);
  std::string out;
  for (const int index : {0, 1, 0}) {
    writer.Chunk(0, MakeChunk("x", v1::FINISH_REASON_UNSPECIFIED, index), &out);
  }
  const auto events = Events(out);
  EXPECT_TRUE(json::parse(events[0])["choices"][0]["delta"].contains("role"));
  EXPECT_TRUE(json::parse(events[1])["choices"][0]["delta"].contains("role"));
  EXPECT_EQ(json::parse(events[1])["choices"][0]["index"], 1);
  EXPECT_FALSE(json::parse(events[2])["choices"][0]["delta"].contains("role"));
}

TEST(StreamTest, UsageComesInAnEventOfItsOwn) {
  StreamWriter writer({.include_usage = true}, kHeader);
  std::string out;
  writer.Chunk(0, MakeChunk("x", v1::FINISH_REASON_STOP), &out);
  writer.Done(MakeUsage(5, 2, 1), &out);
  const auto events = Events(out);
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(json::parse(events[0])["object"], "text_completion");
  EXPECT_EQ(json::parse(events[0])["usage"], nullptr);
  EXPECT_TRUE(json::parse(events[0]).contains("usage"));
  const json usage = json::parse(events[1]);
  EXPECT_EQ(usage["choices"], json::array());
  EXPECT_EQ(usage["model"], "tiny");
  EXPECT_EQ(usage["usage"]["prompt_tokens_details"]["cached_tokens"], 1);
}

TEST(StreamTest, ContinuousUsageAddsUpPrompts) {
  StreamWriter writer({.num_prompts = 2, .continuous_usage_stats = true}, kHeader);
  std::string out;
  v1::GenerateChunk chunk = MakeChunk("x");
  *chunk.mutable_usage() = MakeUsage(5, 1, 0);
  writer.Chunk(0, chunk, &out);
  writer.Chunk(1, chunk, &out);
  EXPECT_EQ(json::parse(Events(out)[1])["usage"]["total_tokens"], 12);
  EXPECT_EQ(json::parse(Events(out)[1])["choices"][0]["index"], 1);
}

TEST(StreamTest, EchoOffsetsGoOnFromChunkToChunk) {
  StreamWriter writer({.logprobs = true, .echo = true}, kHeader);
  std::string out;
  v1::GenerateChunk first = MakeChunk("ab");
  *first.add_prompt_logprobs() = MakeLogprob(1, 0, "ab", 0);
  v1::GenerateChunk second = MakeChunk("c");
  *second.add_logprobs() = MakeLogprob(2, -1, "c", 1, 2);
  writer.Chunk(0, first, &out);
  writer.Chunk(0, second, &out);
  EXPECT_EQ(json::parse(Events(out)[1])["choices"][0]["logprobs"]["text_offset"], json({2}));
}

TEST(StreamTest, AnErrorIsOneEventWithoutDone) {
  std::string out;
  StreamWriter::Error(InvalidParam("n", "text", "code"), &out);
  const auto events = Events(out);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(json::parse(events[0])["error"]["code"], "code");
}

TEST(StreamTest, TextNeverBreaksAnEvent) {
  StreamWriter writer({}, kHeader);
  std::string all;
  for (int c = 0; c < 256; ++c) all.push_back(static_cast<char>(c));
  std::string out;
  writer.Chunk(0, MakeChunk("\r\n\n\ndata: [DONE]\n\n" + all), &out);
  EXPECT_EQ(Events(out).size(), 1u);
}

TEST(ErrorJsonTest, HasTypeByStatus) {
  EXPECT_EQ(json::parse(ErrorJson(InvalidParam("n", "m", "c"))),
            json::parse(R"({"error":{"message":"m","type":"invalid_request_error","param":"n",
                                     "code":"c"}})"));
  const auto type = [](absl::StatusCode code) {
    return json::parse(ErrorJson(ApiError{.status = code}))["error"]["type"];
  };
  EXPECT_EQ(type(absl::StatusCode::kUnauthenticated), "authentication_error");
  EXPECT_EQ(type(absl::StatusCode::kResourceExhausted), "rate_limit_error");
  EXPECT_EQ(type(absl::StatusCode::kUnavailable), "service_unavailable_error");
  EXPECT_EQ(type(absl::StatusCode::kInternal), "server_error");
  EXPECT_EQ(json::parse(ErrorJson(ApiError{}))["error"]["param"], nullptr);
}

TEST(OtherResponsesTest, HaveVllmShapes) {
  TokenizeResult result{.token_ids = {1, 2}, .token_strs = {"a", "b"}, .max_model_len = 9};
  EXPECT_EQ(json::parse(TokenizeJson(result, true)),
            json::parse(R"({"count":2,"max_model_len":9,"tokens":[1,2],"token_strs":["a","b"]})"));
  EXPECT_EQ(json::parse(TokenizeJson(result, false))["token_strs"], nullptr);
  EXPECT_EQ(json::parse(DetokenizeJson("a\"")), json::parse(R"({"prompt":"a\""})"));
  v1::ModelInfo model;
  model.set_id("m");
  const std::vector<v1::ModelInfo> models = {model};
  const json list = json::parse(ModelListJson(models));
  EXPECT_EQ(list["object"], "list");
  EXPECT_EQ(list["data"][0]["object"], "model");
  EXPECT_EQ(json::parse(ModelJson(model)), list["data"][0]);
}

}  // namespace
}  // namespace paceline::router
