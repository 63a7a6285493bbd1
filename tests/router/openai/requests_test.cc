#include "router/openai/requests.h"

#include <map>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "router/openai/errors.h"

namespace paceline::router {
namespace {

using nlohmann::json;

ApiError ErrorOf(const std::variant<InferenceRequest, ApiError>& parsed) {
  const auto* error = std::get_if<ApiError>(&parsed);
  return error == nullptr ? ApiError{.message = "accepted", .param = "(accepted)"} : *error;
}
InferenceRequest Completion(const std::string& body) {
  auto parsed = ParseCompletion(body);
  EXPECT_TRUE(std::holds_alternative<InferenceRequest>(parsed)) << body << ErrorOf(parsed).message;
  return std::get<InferenceRequest>(std::move(parsed));
}
InferenceRequest Chat(const std::string& body) {
  auto parsed = ParseChatCompletion(body);
  EXPECT_TRUE(std::holds_alternative<InferenceRequest>(parsed)) << body << ErrorOf(parsed).message;
  return std::get<InferenceRequest>(std::move(parsed));
}
const v1::GenerateRequest& CallOf(const InferenceRequest& request, size_t i = 0) {
  return std::get<v1::GenerateRequest>(request.calls.at(i));
}
const v1::ChatRequest& ChatOf(const InferenceRequest& request) {
  return std::get<v1::ChatRequest>(request.calls.at(0));
}
std::string CompletionParam(const std::string& body) {
  return ErrorOf(ParseCompletion(body)).param;
}
std::string ChatParam(const std::string& body) { return ErrorOf(ParseChatCompletion(body)).param; }

// One value of every JSON type, by name.
const std::map<std::string, json>& OneOfEachType() {
  static const std::map<std::string, json> values = {{"bool", true},
                                                     {"int", 1},
                                                     {"float", 1.5},
                                                     {"string", "x"},
                                                     {"array", json::array({json::array()})},
                                                     {"object", {{"zzz", 1}}}};
  return values;
}

// The types that a field of each name may have; written by hand from the OpenAI and vLLM
// references.
const std::map<std::string, std::set<std::string>>& AllowedTypes() {
  static const std::set<std::string> integer = {"int"};
  static const std::set<std::string> number = {"int", "float"};
  static const std::set<std::string> boolean = {"bool"};
  static const std::set<std::string> text = {"string"};
  static const std::map<std::string, std::set<std::string>> types = {
      {"model", text},
      {"max_tokens", integer},
      {"max_completion_tokens", integer},
      {"min_tokens", integer},
      {"temperature", number},
      {"top_p", number},
      {"top_k", integer},
      {"min_p", number},
      {"typical_p", number},
      {"n", integer},
      {"best_of", integer},
      {"use_beam_search", boolean},
      {"length_penalty", number},
      {"seed", integer},
      {"stop", text},
      {"include_stop_str_in_output", boolean},
      {"ignore_eos", boolean},
      {"frequency_penalty", number},
      {"presence_penalty", number},
      {"repetition_penalty", number},
      {"top_logprobs", integer},
      {"prompt_logprobs", integer},
      {"skip_special_tokens", boolean},
      {"return_token_ids", boolean},
      {"request_id", text},
      {"priority", integer},
      {"cache_salt", text},
      {"truncate_prompt_tokens", integer},
      {"timeout", number},
      {"stream", boolean},
      {"user", text},
      {"safety_identifier", text},
      {"prompt_cache_key", text},
      {"add_special_tokens", boolean},
      {"echo", boolean},
      {"add_generation_prompt", boolean},
      {"parallel_tool_calls", boolean},
      {"prompt", text},
      {"chat_template_kwargs", {"object"}},
      {"store", {}},
      {"logprobs", {}},
      {"spaces_between_special_tokens", boolean},
      {"include_reasoning", boolean}};
  return types;
}

template <class Parse>
void CheckEveryFieldRefusesWrongTypes(const std::vector<std::string_view>& names,
                                      const json& good,
                                      const Parse& parse) {
  for (const std::string_view name : names) {
    for (const auto& [type, value] : OneOfEachType()) {
      const auto known = AllowedTypes().find(std::string(name));
      if (known != AllowedTypes().end() && known->second.contains(type)) continue;
      if (name == "logprobs") continue;  // differs between the endpoints; tested below
      if (name == "tools" && type == "array") continue;  // of arrays: tested below
      json body = good;
      body[std::string(name)] = value;
      const ApiError error = ErrorOf(parse(body.dump()));
      EXPECT_EQ(error.param.substr(0, name.size()), name) << name << " as " << type;
      EXPECT_EQ(HttpStatusOf(error), 400) << name << " as " << type;
    }
  }
}

TEST(RequestFieldsTest, EveryFieldRefusesEveryOtherType) {
  CheckEveryFieldRefusesWrongTypes(CompletionFieldNames(), {{"prompt", "a"}}, [](std::string body) {
    return ParseCompletion(body);
  });
  CheckEveryFieldRefusesWrongTypes(
      ChatCompletionFieldNames(),
      {{"messages", json::array({{{"role", "user"}, {"content", "a"}}})}},
      [](std::string body) { return ParseChatCompletion(body); });
}

TEST(RequestFieldsTest, EveryOptionalFieldMayBeNull) {
  for (const std::string_view name : CompletionFieldNames()) {
    if (name == "prompt") continue;
    const json body = {{"prompt", "a"}, {std::string(name), nullptr}};
    EXPECT_EQ(CompletionParam(body.dump()), "(accepted)") << name;
  }
  EXPECT_EQ(CompletionParam(R"({"prompt":null})"), "prompt");
  EXPECT_EQ(ChatParam(R"({"messages":null})"), "messages");
}

TEST(RequestFieldsTest, FieldNamesAreUnique) {
  for (const auto& names : {CompletionFieldNames(), ChatCompletionFieldNames()}) {
    EXPECT_EQ(std::set<std::string_view>(names.begin(), names.end()).size(), names.size());
  }
}

TEST(RequestFieldsTest, EverySamplingFieldOfTheContractIsKnownOnBothEndpoints) {
  const auto completion = CompletionFieldNames();
  const auto chat = ChatCompletionFieldNames();
  for (const std::string_view name : {"max_tokens",
                                      "min_tokens",
                                      "temperature",
                                      "top_p",
                                      "top_k",
                                      "min_p",
                                      "typical_p",
                                      "n",
                                      "best_of",
                                      "use_beam_search",
                                      "length_penalty",
                                      "seed",
                                      "stop",
                                      "stop_token_ids",
                                      "include_stop_str_in_output",
                                      "ignore_eos",
                                      "frequency_penalty",
                                      "presence_penalty",
                                      "repetition_penalty",
                                      "logit_bias",
                                      "bad_words",
                                      "allowed_token_ids",
                                      "logprobs",
                                      "top_logprobs",
                                      "prompt_logprobs",
                                      "echo",
                                      "skip_special_tokens",
                                      "return_token_ids",
                                      "response_format",
                                      "structured_outputs",
                                      "priority",
                                      "cache_salt",
                                      "request_id",
                                      "truncate_prompt_tokens",
                                      "timeout"}) {
    EXPECT_NE(std::find(completion.begin(), completion.end(), name), completion.end()) << name;
    EXPECT_NE(std::find(chat.begin(), chat.end(), name), chat.end()) << name;
  }
}

TEST(RequestFieldsTest, MapsEveryFieldToItsMessage) {
  const InferenceRequest request = Completion(R"({
    "model":"m","prompt":"p","max_tokens":7,"min_tokens":1,"temperature":0,"top_p":0.5,"top_k":-1,
    "min_p":0.1,"typical_p":1,"n":2,"best_of":2,"use_beam_search":false,"length_penalty":1,
    "seed":9223372036854775807,"stop":["a","b"],"stop_token_ids":[1,2],
    "include_stop_str_in_output":true,"ignore_eos":true,"frequency_penalty":-2,
    "presence_penalty":2,"repetition_penalty":1.1,"logit_bias":{"5":-100,"7":1.5},
    "bad_words":["w"],"allowed_token_ids":[3],"logprobs":4,"top_logprobs":5,"prompt_logprobs":6,
    "skip_special_tokens":false,"return_token_ids":true,"request_id":"r","priority":-3,
    "cache_salt":"s","truncate_prompt_tokens":8,"timeout":1.5,"echo":true,
    "add_special_tokens":false,"stream":true,"stream_options":{"include_usage":true}})");
  v1::GenerateRequest want;
  want.set_model("m");
  want.set_text("p");
  want.set_echo(true);
  want.set_add_special_tokens(false);
  v1::SamplingParams& s = *want.mutable_sampling();
  s.set_max_tokens(7);
  s.set_min_tokens(1);
  s.set_temperature(0);
  s.set_top_p(0.5);
  s.set_top_k(-1);
  s.set_min_p(0.1);
  s.set_typical_p(1);
  s.set_n(2);
  s.set_best_of(2);
  s.set_use_beam_search(false);
  s.set_length_penalty(1);
  s.set_seed(INT64_MAX);
  s.add_stop("a");
  s.add_stop("b");
  s.add_stop_token_ids(1);
  s.add_stop_token_ids(2);
  s.set_include_stop_str_in_output(true);
  s.set_ignore_eos(true);
  s.set_frequency_penalty(-2);
  s.set_presence_penalty(2);
  s.set_repetition_penalty(1.1);
  (*s.mutable_logit_bias())[5] = -100;
  (*s.mutable_logit_bias())[7] = 1.5;
  s.add_bad_words("w");
  s.add_allowed_token_ids(3);
  s.set_logprobs(4);
  s.set_top_logprobs(5);
  s.set_prompt_logprobs(6);
  s.set_skip_special_tokens(false);
  s.set_return_token_ids(true);
  v1::RequestOptions& o = *want.mutable_options();
  o.set_request_id("r");
  o.set_priority(-3);
  o.set_cache_salt("s");
  o.set_truncate_prompt_tokens(8);
  o.set_timeout(1.5);
  EXPECT_EQ(CallOf(request).DebugString(), want.DebugString());
  EXPECT_TRUE(request.stream);
  EXPECT_TRUE(request.shape.include_usage);
  EXPECT_TRUE(request.shape.echo);
  EXPECT_EQ(request.shape.n, 2);
}

TEST(RequestFieldsTest, LeavesAbsentFieldsUnset) {
  const InferenceRequest request = Completion(R"({"prompt":"p"})");
  EXPECT_EQ(CallOf(request).sampling().ByteSizeLong(), 0u);
}

TEST(RequestFieldsTest, RefusesNumbersThatDoNotFitTheirField) {
  for (const std::string body : {R"("n":2147483648)",
                                 R"("n":1.5)",
                                 R"("n":1.0)",
                                 R"("n":"1")",
                                 R"("n":-2147483649)",
                                 R"("n":9223372036854775808)"}) {
    EXPECT_EQ(CompletionParam("{\"prompt\":\"p\"," + body + "}"), "n") << body;
  }
  EXPECT_EQ(CompletionParam(R"({"prompt":"p","seed":9223372036854775808})"), "seed");
  EXPECT_EQ(CompletionParam(R"({"prompt":"p","seed":1.5})"), "seed");
  EXPECT_EQ(CompletionParam(R"({"prompt":"p","max_tokens":9223372036854775807})"), "max_tokens");
  EXPECT_EQ(CompletionParam(R"({"prompt":"p","stop_token_ids":[1,1.5]})"), "stop_token_ids[1]");
}

TEST(RequestFieldsTest, LogprobsIsANumberForCompletionsAndASwitchForChat) {
  EXPECT_EQ(CompletionParam(R"({"prompt":"p","logprobs":true})"), "logprobs");
  EXPECT_EQ(ChatParam(R"({"messages":[{"role":"user","content":"a"}],"logprobs":1})"), "logprobs");
  const InferenceRequest chat =
      Chat(R"({"messages":[{"role":"user","content":"a"}],"logprobs":true,"top_logprobs":2})");
  EXPECT_TRUE(ChatOf(chat).logprobs());
  EXPECT_EQ(ChatOf(chat).sampling().top_logprobs(), 2);
  EXPECT_EQ(chat.shape.num_top_logprobs, 2);
}

TEST(RequestFieldsTest, NamesAnUnknownFieldSafely) {
  const ApiError error = ErrorOf(ParseCompletion(R"({"prompt":"p","bad\n<name>":1})"));
  EXPECT_EQ(error.param, "bad??name?");
  EXPECT_EQ(error.code, "unknown_field");
  const ApiError long_name =
      ErrorOf(ParseCompletion("{\"prompt\":\"p\",\"" + std::string(1 << 20, 'k') + "\":1}"));
  EXPECT_EQ(long_name.param, std::string(64, 'k'));
  EXPECT_EQ(ChatParam(R"({"messages":[{"role":"user","content":"a","zzz":1}]})"),
            "messages[0].zzz");
  EXPECT_EQ(ChatParam(R"({"messages":[{"role":"user","content":"a"}],"stream":true,
                          "stream_options":{"zzz":1}})"),
            "stream_options.zzz");
}

TEST(RequestFieldsTest, UnknownFieldsCanBeAllowed) {
  const ParseOptions lax{.allow_unknown_fields = true};
  EXPECT_EQ(ErrorOf(ParseCompletion(R"({"prompt":"p","zzz":1})", lax)).param, "(accepted)");
  EXPECT_EQ(ErrorOf(ParseChatCompletion(
                        R"({"messages":[{"role":"user","zzz":1,"content":[{"type":"text",
                            "text":"a","cache_control":{}}]}]})",
                        lax))
                .param,
            "(accepted)");
}

TEST(RequestFieldsTest, AcceptsDefaultsOfWhatIsNotBuiltAndRefusesTheRest) {
  const std::string message = R"({"messages":[{"role":"user","content":"a"}],)";
  for (const std::string good : {R"("response_format":{"type":"text"})",
                                 R"("tools":[])",
                                 R"("tool_choice":"none")",
                                 R"("tool_choice":"auto")",
                                 R"("store":false)",
                                 R"("metadata":{})",
                                 R"("service_tier":"auto")",
                                 R"("parallel_tool_calls":false)",
                                 R"("modalities":["text"])",
                                 R"("user":"u")",
                                 R"("stop":[])",
                                 R"("logit_bias":{})",
                                 R"("functions":[])",
                                 R"("continue_final_message":false)",
                                 R"("stream_options":{"include_usage":false})"}) {
    EXPECT_EQ(ChatParam(message + good + "}"), "(accepted)") << good;
  }
  for (const auto& [field, bad] :
       std::map<std::string, std::string>{{"response_format", R"({"type":"json_object"})"},
                                          {"structured_outputs", R"({"regex":"a"})"},
                                          {"tool_choice", R"("required")"},
                                          {"store", "true"},
                                          {"metadata", R"({"a":"b"})"},
                                          {"service_tier", R"("flex")"},
                                          {"modalities", R"(["audio"])"},
                                          {"chat_template", R"("{{ 7 }}")"},
                                          {"reasoning_effort", R"("high")"},
                                          {"audio", "{}"},
                                          {"echo", "true"},
                                          {"user", R"("")"},
                                          {"cache_salt", R"("")"},
                                          {"allowed_token_ids", "[]"},
                                          {"stream_options", R"({"include_usage":true})"}}) {
    EXPECT_EQ(ChatParam(message + "\"" + field + "\":" + bad + "}"), field) << bad;
  }
  EXPECT_EQ(ChatParam(message + R"("user":"a\u0000b"})"), "user");
}

TEST(RequestFieldsTest, PassesToolsOnForTheCoreToJudge) {
  const InferenceRequest chat =
      Chat(R"({"messages":[{"role":"user","content":"a"}],"tools":[{"type":"function"}]})");
  EXPECT_EQ(ChatOf(chat).tools_json(), R"([{"type":"function"}])");
  EXPECT_EQ(ChatParam(R"({"messages":[{"role":"user","content":"a"}],"tools":[1]})"), "tools[0]");
}

TEST(RequestFieldsTest, LogitBiasTakesTokenIdsAsNames) {
  for (const std::string bad : {"x", "", "1.5", " 1", "+1", "01", "9223372036854775808"}) {
    const json body = {{"prompt", "p"}, {"logit_bias", {{bad, 1}}}};
    EXPECT_EQ(CompletionParam(body.dump()), "logit_bias") << bad;
  }
  EXPECT_EQ(CompletionParam(R"({"prompt":"p","logit_bias":{"1":"x"}})"), "logit_bias.1");
  // Ranges are the core's: it sees them.
  EXPECT_EQ(CallOf(Completion(R"({"prompt":"p","logit_bias":{"-1":1e9}})"))
                .sampling()
                .logit_bias()
                .at(-1),
            1e9);
}

TEST(CompletionPromptTest, TakesTextsAndTokenIds) {
  EXPECT_EQ(CallOf(Completion(R"({"prompt":"a\u0000b"})")).text(), std::string("a\0b", 3));
  EXPECT_EQ(CallOf(Completion(R"({"prompt":""})")).prompt_case(), v1::GenerateRequest::kText);
  const InferenceRequest ids = Completion(R"({"prompt":[1,-5,9223372036854775807]})");
  EXPECT_EQ(CallOf(ids).token_ids().ids(2), INT64_MAX);
  const InferenceRequest texts = Completion(R"({"prompt":["a","b"],"n":3})");
  EXPECT_EQ(texts.shape.num_prompts, 2);
  EXPECT_EQ(CallOf(texts, 1).text(), "b");
  const InferenceRequest id_lists = Completion(R"({"prompt":[[1],[2,3]]})");
  EXPECT_EQ(CallOf(id_lists, 1).token_ids().ids_size(), 2);
}

TEST(CompletionPromptTest, RefusesOtherShapesByPlace) {
  for (const auto& [prompt, param] :
       std::map<std::string, std::string>{{"[]", "prompt"},
                                          {"[[]]", "prompt[0]"},
                                          {"[1,\"a\"]", "prompt[1]"},
                                          {"[\"a\",1]", "prompt[1]"},
                                          {"[1.5]", "prompt[0]"},
                                          {"[[1],[1.5]]", "prompt[1][0]"},
                                          {"[[1],[[1]]]", "prompt[1][0]"},
                                          {"[1,18446744073709551615]", "prompt[1]"},
                                          {"[null]", "prompt[0]"},
                                          {"[{}]", "prompt[0]"},
                                          {"{}", "prompt"},
                                          {"5", "prompt"}}) {
    EXPECT_EQ(CompletionParam("{\"prompt\":" + prompt + "}"), param) << prompt;
  }
  json many = json::array();
  for (int i = 0; i < 129; ++i) many.push_back("a");
  EXPECT_EQ(CompletionParam(json{{"prompt", many}}.dump()), "prompt");
  EXPECT_EQ(CompletionParam("{}"), "prompt");
}

TEST(CompletionPromptTest, EchoedPromptsGetLogprobs) {
  const InferenceRequest request = Completion(R"({"prompt":"p","echo":true,"logprobs":2})");
  EXPECT_EQ(CallOf(request).sampling().prompt_logprobs(), 2);
}

TEST(ChatMessagesTest, ReadsEveryRoleAndContent) {
  const InferenceRequest chat = Chat(R"({"messages":[
    {"role":"system","content":"s"},{"role":"developer","content":"d"},
    {"role":"user","name":"bob","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
    {"role":"assistant","content":null,"refusal":null,"tool_calls":[{"id":"x"}]},
    {"role":"tool","tool_call_id":"x","content":"t"},{"role":"assistant"}],
    "max_completion_tokens":5,"chat_template_kwargs":{"enable_thinking":false},
    "add_generation_prompt":false})");
  const v1::ChatRequest& call = ChatOf(chat);
  ASSERT_EQ(call.messages_size(), 6);
  EXPECT_EQ(call.messages(2).content(), "a\nb");
  EXPECT_EQ(call.messages(2).name(), "bob");
  EXPECT_EQ(call.messages(3).tool_calls_json(), R"([{"id":"x"}])");
  EXPECT_EQ(call.messages(4).tool_call_id(), "x");
  EXPECT_EQ(call.sampling().max_tokens(), 5);
  EXPECT_EQ(call.chat_template_kwargs_json(), R"({"enable_thinking":false})");
  EXPECT_TRUE(call.has_add_generation_prompt());
}

TEST(ChatMessagesTest, RefusesBadMessagesByPlace) {
  for (const auto& [message, param] : std::map<std::string, std::string>{
           {"1", "messages[0]"},
           {"{}", "messages[0].role"},
           {R"({"role":"user"})", "messages[0].content"},
           {R"({"role":"user","content":null})", "messages[0].content"},
           {R"({"role":"user","content":1})", "messages[0].content"},
           {R"({"role":"robot","content":"a"})", "messages[0].role"},
           {R"({"role":1,"content":"a"})", "messages[0].role"},
           {R"({"role":"user","content":["a"]})", "messages[0].content[0]"},
           {R"({"role":"user","content":[{"text":"a"}]})", "messages[0].content[0].type"},
           {R"({"role":"user","content":[{"type":"text"}]})", "messages[0].content[0].text"},
           {R"({"role":"user","content":[{"type":"text","text":1}]})",
            "messages[0].content[0].text"},
           {R"({"role":"user","content":[{"type":"image_url","image_url":{"url":"http://x"}}]})",
            "messages[0].content[0].type"},
           {R"({"role":"user","content":"a","name":1})", "messages[0].name"},
           {R"({"role":"assistant","tool_calls":[1]})", "messages[0].tool_calls[0]"},
           {R"({"role":"assistant","content":"a","audio":{}})", "messages[0].audio"}}) {
    EXPECT_EQ(ChatParam("{\"messages\":[" + message + "]}"), param) << message;
  }
  EXPECT_EQ(ChatParam(R"({"messages":[]})"), "messages");
  json many = json::array();
  for (int i = 0; i < 4097; ++i) many.push_back({{"role", "user"}, {"content", "a"}});
  EXPECT_EQ(ChatParam(json{{"messages", many}}.dump()), "messages");
  many.erase(0);
  EXPECT_EQ(ChatParam(json{{"messages", many}}.dump()), "(accepted)");
}

TEST(ChatMessagesTest, TwoDifferentTokenLimitsAreAnError) {
  const std::string message = R"({"messages":[{"role":"user","content":"a"}],"max_tokens":5,)";
  EXPECT_EQ(ChatParam(message + R"("max_completion_tokens":6})"), "max_completion_tokens");
  EXPECT_EQ(ChatParam(message + R"("max_completion_tokens":5})"), "(accepted)");
}

TEST(RequestBodyTest, EveryPrefixOfAGoodBodyIsRefused) {
  const std::string body =
      R"({"messages":[{"role":"user","content":"h\u00e9 \ud83d\ude00"}],"stop":["a"],"n":2})";
  for (size_t length = 0; length < body.size(); ++length) {
    EXPECT_EQ(HttpStatusOf(ErrorOf(ParseChatCompletion(body.substr(0, length)))), 400) << length;
  }
  EXPECT_EQ(ChatParam(body), "(accepted)");
}

TEST(RequestBodyTest, OnlyAnObjectIsABody) {
  for (const std::string body : {"", "null", "[]", "\"\"", "5", "true"}) {
    EXPECT_EQ(ErrorOf(ParseCompletion(body)).code, "invalid_json") << body;
  }
}

TEST(RequestBodyTest, ErrorsCarryNoUserBytes) {
  const std::string canary = "CANARY";
  const std::string c = "\"" + canary + "\"";
  for (const std::string& body : {"{\"prompt\":" + c + ",\"n\":" + c + "}",
                                  "{\"prompt\":" + c + "," + c,
                                  "{\"prompt\":\"p\",\"logit_bias\":{" + c + ":1}}",
                                  "{\"prompt\":\"p\",\"service_tier\":" + c + "}",
                                  "{\"prompt\":\"p\",\"response_format\":{\"type\":" + c + "}}"}) {
    EXPECT_EQ(ErrorJson(ErrorOf(ParseCompletion(body))).find(canary), std::string::npos) << body;
  }
  const std::string chat = "{\"messages\":[{\"role\":" + c + ",\"content\":" + c + "}]}";
  EXPECT_EQ(ErrorJson(ErrorOf(ParseChatCompletion(chat))).find(canary), std::string::npos);
}

TEST(RequestIdsTest, EachPromptHasItsOwn) {
  InferenceRequest one = Completion(R"({"prompt":"a"})");
  EXPECT_EQ(AssignRequestIds("id", one), "id");
  EXPECT_EQ(CallOf(one).options().request_id(), "id");
  InferenceRequest two = Completion(R"({"prompt":["a","b"],"request_id":"own"})");
  EXPECT_EQ(AssignRequestIds("id", two), "own");
  EXPECT_EQ(CallOf(two, 1).options().request_id(), "own-1");
  InferenceRequest long_id = Completion(R"({"prompt":["a","b"]})");
  AssignRequestIds(std::string(128, 'x'), long_id);
  EXPECT_LE(CallOf(long_id, 1).options().request_id().size(), 128u);
}

TEST(TokenizeBodyTest, TakesAPromptOrMessages) {
  auto prompt = std::get<v1::TokenizeRequest>(ParseTokenize(
      R"({"model":"m","prompt":"a","add_special_tokens":false,"return_token_strs":true})"));
  EXPECT_EQ(prompt.text(), "a");
  EXPECT_TRUE(prompt.has_add_special_tokens());
  EXPECT_TRUE(prompt.return_token_strs());
  auto chat = std::get<v1::TokenizeRequest>(ParseTokenize(
      R"({"messages":[{"role":"user","content":"a"}],"add_generation_prompt":false})"));
  EXPECT_EQ(chat.messages_size(), 1);
  for (const std::string bad : {"{}",
                                "{\"prompt\":1}",
                                R"({"prompt":"a","messages":[{"role":"user","content":"a"}]})",
                                R"({"prompt":"a","zzz":1})",
                                R"({"prompt":"a","chat_template":"x"})"}) {
    EXPECT_TRUE(std::holds_alternative<ApiError>(ParseTokenize(bad))) << bad;
  }
}

TEST(DetokenizeBodyTest, TakesTokenIds) {
  auto request = std::get<v1::DetokenizeRequest>(ParseDetokenize(R"({"tokens":[1,2]})"));
  EXPECT_EQ(request.token_ids_size(), 2);
  for (const std::string bad : {"{}", R"({"tokens":1})", R"({"tokens":[1.5]})"}) {
    EXPECT_TRUE(std::holds_alternative<ApiError>(ParseDetokenize(bad))) << bad;
  }
}

}  // namespace
}  // namespace paceline::router
