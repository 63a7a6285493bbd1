#include "router/admission/validate.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"
#include "router/admission/utf8_check.h"

namespace paceline::router {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

ModelLimits Limits() { return {.max_model_len = 100, .vocab_size = 50, .kv_tokens = 200}; }

v1::GenerateRequest Generate() {
  v1::GenerateRequest request;
  request.set_text("hello");
  return request;
}
v1::ChatRequest Chat() {
  v1::ChatRequest request;
  v1::ChatMessage& message = *request.add_messages();
  message.set_role("user");
  message.set_content("hello");
  return request;
}

template <typename Body>
std::string ParamOf(const Body& request) {
  const ValidateResult result = ValidateRequest(request, Limits(), {});
  const auto* error = std::get_if<ApiError>(&result);
  if (error == nullptr) return "";
  EXPECT_EQ(error->status, absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(error->message.empty());
  return error->param;
}

template <typename Body>
ResolvedRequest Resolved(const Body& request) {
  ValidateResult result = ValidateRequest(request, Limits(), {});
  const auto* error = std::get_if<ApiError>(&result);
  EXPECT_EQ(error, nullptr) << (error == nullptr ? "" : error->message);
  return error == nullptr ? std::get<ResolvedRequest>(result) : ResolvedRequest{};
}

using Set = std::function<void(v1::SamplingParams&)>;
struct Row {
  const char* param;  // at fault; "": accepted
  Set set;
};

// Every field at, inside and outside of its limits; the same rows for Generate and Chat.
std::vector<Row> SamplingRows() {
  const auto number = [](void (v1::SamplingParams::*setter)(double), double value) -> Set {
    return [=](v1::SamplingParams& s) { (s.*setter)(value); };
  };
  const auto integer = [](void (v1::SamplingParams::*setter)(int32_t), int32_t value) -> Set {
    return [=](v1::SamplingParams& s) { (s.*setter)(value); };
  };
  using S = v1::SamplingParams;
  std::vector<Row> rows;
  const auto numbers = [&](const char* name,
                           void (S::*setter)(double),
                           const std::vector<double>& good,
                           const std::vector<double>& bad) {
    for (const double value : good) rows.push_back({"", number(setter, value)});
    for (const double value : bad) rows.push_back({name, number(setter, value)});
    for (const double value : {kNaN, kInf, -kInf}) rows.push_back({name, number(setter, value)});
  };
  const auto integers = [&](const char* name,
                            void (S::*setter)(int32_t),
                            const std::vector<int32_t>& good,
                            const std::vector<int32_t>& bad) {
    for (const int32_t value : good) rows.push_back({"", integer(setter, value)});
    for (const int32_t value : bad) rows.push_back({name, integer(setter, value)});
  };
  numbers("temperature", &S::set_temperature, {0, 1e-320, 1e-6, 1, 100}, {-1, 100.5, 1e308, -1e-9});
  numbers("top_p", &S::set_top_p, {1e-6, 0.5, 1}, {0, -1, 1.1, 1e-320});
  numbers("min_p", &S::set_min_p, {0, 0.5, 1}, {-0.1, 2});
  numbers("frequency_penalty", &S::set_frequency_penalty, {-2, 0, 2}, {-2.1, 2.1});
  numbers("presence_penalty", &S::set_presence_penalty, {-2, 0, 2}, {-2.1, 2.1});
  numbers("repetition_penalty", &S::set_repetition_penalty, {0.1, 1, 100}, {0, -1, 101, 1e-45});
  numbers("typical_p", &S::set_typical_p, {1}, {0.5});
  numbers("length_penalty", &S::set_length_penalty, {1}, {0.5});
  integers("n", &S::set_n, {1, 16}, {0, -1, 17, INT32_MAX});
  integers("max_tokens", &S::set_max_tokens, {1, INT32_MAX}, {0, -1, INT32_MIN});
  integers("min_tokens", &S::set_min_tokens, {0, 5}, {-1});
  integers("best_of", &S::set_best_of, {1}, {0, 2});
  integers("prompt_logprobs", &S::set_prompt_logprobs, {0, 20}, {-1, 21, INT32_MAX});
  for (const int64_t good : {-1, 0, 1, 50}) {
    rows.push_back({"", [=](S& s) { s.set_top_k(good); }});
  }
  for (const int64_t bad : {int64_t{-2}, int64_t{51}, int64_t{1} << 40, INT64_MIN}) {
    rows.push_back({"top_k", [=](S& s) { s.set_top_k(bad); }});
  }
  rows.push_back({"", [](S& s) { s.set_seed(0); }});
  rows.push_back({"", [](S& s) { s.set_seed(INT64_MAX); }});
  rows.push_back({"seed", [](S& s) { s.set_seed(-1); }});
  rows.push_back({"use_beam_search", [](S& s) { s.set_use_beam_search(true); }});
  rows.push_back({"", [](S& s) { s.set_use_beam_search(false); }});
  rows.push_back({"bad_words", [](S& s) { s.add_bad_words("x"); }});
  rows.push_back({"min_tokens", [](S& s) {
                    s.set_min_tokens(6);
                    s.set_max_tokens(5);
                  }});
  // Token ids: the head's rows are the limit in every field.
  for (const int64_t bad : {int64_t{-1}, int64_t{50}, int64_t{1} << 40, INT64_MIN}) {
    rows.push_back({"stop_token_ids", [=](S& s) { s.add_stop_token_ids(bad); }});
    rows.push_back({"allowed_token_ids", [=](S& s) { s.add_allowed_token_ids(bad); }});
    rows.push_back({"logit_bias", [=](S& s) { (*s.mutable_logit_bias())[bad] = 1; }});
  }
  rows.push_back({"", [](S& s) {
                    s.add_stop_token_ids(49);
                    s.add_allowed_token_ids(0);
                    (*s.mutable_logit_bias())[49] = -100;
                  }});
  for (const double bad : {kNaN, kInf, 1e9, -100.5}) {
    rows.push_back({"logit_bias", [=](S& s) { (*s.mutable_logit_bias())[1] = bad; }});
  }
  rows.push_back({"allowed_token_ids", [](S& s) {
                    for (int i = 0; i < 51; ++i) s.add_allowed_token_ids(1);
                  }});
  rows.push_back({"stop_token_ids", [](S& s) {
                    for (int i = 0; i < 1025; ++i) s.add_stop_token_ids(1);
                  }});
  // Stop texts.
  for (const std::string& bad :
       {std::string(), std::string(257, 'x'), std::string("\xff"), std::string("a\xc0\x80")}) {
    rows.push_back({"stop", [=](S& s) { s.add_stop(bad); }});
  }
  rows.push_back({"", [](S& s) { s.add_stop(std::string(256, 'x')); }});
  rows.push_back({"", [](S& s) { s.add_stop("<|im_end|>"); }});
  rows.push_back({"stop", [](S& s) {
                    for (int i = 0; i < 17; ++i) s.add_stop("x");
                  }});
  return rows;
}

TEST(ValidateTest, EverySamplingFieldIsCheckedOnGenerate) {
  int number = 0;
  for (const Row& row : SamplingRows()) {
    v1::GenerateRequest request = Generate();
    row.set(*request.mutable_sampling());
    EXPECT_EQ(ParamOf(request), row.param)
        << number << ": " << request.sampling().ShortDebugString();
    ++number;
  }
}

TEST(ValidateTest, EverySamplingFieldIsCheckedOnChat) {
  int number = 0;
  for (const Row& row : SamplingRows()) {
    v1::ChatRequest request = Chat();
    row.set(*request.mutable_sampling());
    EXPECT_EQ(ParamOf(request), row.param)
        << number << ": " << request.sampling().ShortDebugString();
    ++number;
  }
}

TEST(ValidateTest, ResolvesDefaults) {
  const ResolvedRequest request = Resolved(Generate());
  EXPECT_EQ(request.n, 1);
  EXPECT_EQ(request.sampling.temperature(), 1.0F);
  EXPECT_EQ(request.sampling.top_p(), 1.0F);
  EXPECT_EQ(request.sampling.top_k(), 0);
  EXPECT_EQ(request.sampling.repetition_penalty(), 1.0F);
  EXPECT_EQ(request.sampling.logprobs(), -1);
  EXPECT_EQ(request.sampling.prompt_logprobs(), -1);
  EXPECT_FALSE(request.seed.has_value());
  EXPECT_TRUE(request.skip_special_tokens);
  EXPECT_TRUE(request.add_special_tokens);
}

TEST(ValidateTest, TinyTemperaturesAreGreedy) {
  v1::GenerateRequest request = Generate();
  request.mutable_sampling()->set_temperature(9e-6);
  EXPECT_EQ(Resolved(request).sampling.temperature(), 0.0F);
}

TEST(ValidateTest, TopKOffHasOneForm) {
  v1::GenerateRequest request = Generate();
  request.mutable_sampling()->set_top_k(-1);
  EXPECT_EQ(Resolved(request).sampling.top_k(), 0);
}

TEST(ValidateTest, LogitBiasIsSortedById) {
  v1::GenerateRequest request = Generate();
  for (const int64_t id : {40, 3, 17}) (*request.mutable_sampling()->mutable_logit_bias())[id] = id;
  const ResolvedRequest resolved = Resolved(request);
  const auto& ids = resolved.sampling.logit_bias_ids();
  EXPECT_EQ(std::vector<int32_t>(ids.begin(), ids.end()), (std::vector<int32_t>{3, 17, 40}));
}

TEST(ValidateTest, LogprobsAreANumberOnGenerateAndASwitchOnChat) {
  v1::GenerateRequest generate = Generate();
  generate.mutable_sampling()->set_logprobs(5);
  EXPECT_EQ(Resolved(generate).sampling.logprobs(), 5);
  generate.mutable_sampling()->set_logprobs(21);
  EXPECT_EQ(ParamOf(generate), "logprobs");
  generate.mutable_sampling()->clear_logprobs();
  generate.mutable_sampling()->set_top_logprobs(5);
  EXPECT_EQ(ParamOf(generate), "top_logprobs");

  v1::ChatRequest chat = Chat();
  chat.mutable_sampling()->set_top_logprobs(5);
  EXPECT_EQ(ParamOf(chat), "top_logprobs");
  chat.set_logprobs(true);
  EXPECT_EQ(Resolved(chat).sampling.logprobs(), 5);
  chat.mutable_sampling()->clear_top_logprobs();
  EXPECT_EQ(Resolved(chat).sampling.logprobs(), 0);
  for (const int32_t bad : {-1, 21, INT32_MAX}) {
    chat.mutable_sampling()->set_top_logprobs(bad);
    EXPECT_EQ(ParamOf(chat), "top_logprobs") << bad;
  }
}

TEST(ValidateTest, OptionsAreChecked) {
  using O = v1::RequestOptions;
  const std::vector<std::pair<const char*, std::function<void(O&)>>> rows = {
      {"", [](O& o) { o.set_request_id(std::string(128, 'x')); }},
      {"request_id", [](O& o) { o.set_request_id(std::string(129, 'x')); }},
      {"request_id", [](O& o) { o.set_request_id("a\nb"); }},
      {"request_id", [](O& o) { o.set_request_id("\xc3\xa9"); }},
      {"", [](O& o) { o.set_priority(-1000); }},
      {"priority", [](O& o) { o.set_priority(1001); }},
      {"priority", [](O& o) { o.set_priority(INT32_MIN); }},
      {"", [](O& o) { o.set_cache_salt(std::string(128, 'x')); }},
      {"cache_salt", [](O& o) { o.set_cache_salt(std::string(129, 'x')); }},
      {"cache_salt", [](O& o) { o.set_cache_salt(std::string("a\0b", 3)); }},
      {"truncate_prompt_tokens", [](O& o) { o.set_truncate_prompt_tokens(0); }},
      {"truncate_prompt_tokens", [](O& o) { o.set_truncate_prompt_tokens(-1); }},
      {"", [](O& o) { o.set_timeout(86400); }},
      {"", [](O& o) { o.set_timeout(1e-9); }},
      {"timeout", [](O& o) { o.set_timeout(0); }},
      {"timeout", [](O& o) { o.set_timeout(-1); }},
      {"timeout", [](O& o) { o.set_timeout(86401); }},
      {"timeout", [](O& o) { o.set_timeout(kNaN); }},
      {"timeout", [](O& o) { o.set_timeout(kInf); }},
  };
  for (const auto& [param, set] : rows) {
    v1::GenerateRequest request = Generate();
    set(*request.mutable_options());
    EXPECT_EQ(ParamOf(request), param) << request.options().ShortDebugString();
  }
}

TEST(ValidateTest, PromptsAreChecked) {
  EXPECT_EQ(ParamOf(v1::GenerateRequest()), "prompt");
  v1::GenerateRequest request;
  request.mutable_token_ids();
  EXPECT_EQ(ParamOf(request), "prompt");
  request.mutable_token_ids()->add_ids(49);
  EXPECT_EQ(ParamOf(request), "");
  for (const int64_t bad : {int64_t{-1}, int64_t{50}, INT64_MAX}) {
    request.mutable_token_ids()->set_ids(0, bad);
    EXPECT_EQ(ParamOf(request), "prompt") << bad;
  }
  request.set_text("\xed\xa0\x80");
  EXPECT_EQ(ParamOf(request), "prompt");
  request.set_text(std::string("a\0b", 3));
  EXPECT_EQ(ParamOf(request), "");
}

TEST(ValidateTest, MessagesAreChecked) {
  EXPECT_EQ(ParamOf(v1::ChatRequest()), "messages");
  v1::ChatRequest chat = Chat();
  chat.mutable_messages(0)->set_role("root");
  EXPECT_EQ(ParamOf(chat), "messages[0].role");
  chat.mutable_messages(0)->set_role(std::string(1 << 20, 'x'));
  EXPECT_EQ(ParamOf(chat), "messages[0].role");
  chat = Chat();
  chat.mutable_messages(0)->set_tool_calls_json("{}");
  EXPECT_EQ(ParamOf(chat), "messages[0].tool_calls");
  chat.mutable_messages(0)->set_tool_calls_json("[{}]");
  EXPECT_EQ(ParamOf(chat), "");
  chat = Chat();
  for (int i = 0; i < 4096; ++i) *chat.add_messages() = chat.messages(0);
  EXPECT_EQ(ParamOf(chat), "messages");
  chat = Chat();
  chat.set_tools_json("[]");
  EXPECT_EQ(ParamOf(chat), "tools");
}

TEST(ValidateTest, TemplateKwargsAreAnObjectOfBoundedDepthWithoutOurNames) {
  for (const char* bad : {"5", "[]", "{", "{}{}", R"({"messages":[]})", R"({"tokenize":true})"}) {
    v1::ChatRequest chat = Chat();
    chat.set_chat_template_kwargs_json(bad);
    EXPECT_EQ(ParamOf(chat), "chat_template_kwargs") << bad;
  }
  v1::ChatRequest chat = Chat();
  chat.set_chat_template_kwargs_json(R"({"enable_thinking": false, "text": "[[[[{{{{\""})");
  EXPECT_EQ(ParamOf(chat), "");
  const auto nested = [](int depth) {
    return absl::StrCat("{\"a\":", std::string(depth, '['), std::string(depth, ']'), "}");
  };
  chat.set_chat_template_kwargs_json(nested(63));
  EXPECT_EQ(ParamOf(chat), "");
  chat.set_chat_template_kwargs_json(nested(64));
  EXPECT_EQ(ParamOf(chat), "chat_template_kwargs");
  chat.set_chat_template_kwargs_json(nested(30000));
  EXPECT_EQ(ParamOf(chat), "chat_template_kwargs");
  chat.set_chat_template_kwargs_json("{\"a\":\"" + std::string(64 << 10, 'x') + "\"}");
  EXPECT_EQ(ParamOf(chat), "chat_template_kwargs");
}

std::optional<ApiError> Length(int64_t prompt_tokens,
                               std::optional<int32_t> max_tokens,
                               bool is_chat,
                               int32_t* resolved,
                               ModelLimits limits = Limits()) {
  ResolvedRequest request;
  request.is_chat = is_chat;
  request.max_tokens = max_tokens;
  auto error = ResolveLength(prompt_tokens, limits, request);
  *resolved = request.sampling.max_tokens();
  return error;
}

TEST(ResolveLengthTest, GenerateDefaultsTo16AndChatToTheRestOfTheContext) {
  int32_t resolved = 0;
  EXPECT_FALSE(Length(10, std::nullopt, false, &resolved));
  EXPECT_EQ(resolved, 16);
  EXPECT_FALSE(Length(90, std::nullopt, false, &resolved));
  EXPECT_EQ(resolved, 10);
  EXPECT_FALSE(Length(10, std::nullopt, true, &resolved));
  EXPECT_EQ(resolved, 90);
}

TEST(ResolveLengthTest, TheContextIsExact) {
  int32_t resolved = 0;
  EXPECT_FALSE(Length(60, 40, false, &resolved));
  const auto over = Length(60, 41, false, &resolved);
  ASSERT_TRUE(over);
  EXPECT_EQ(over->code, "context_length_exceeded");
  EXPECT_EQ(over->param, "max_tokens");
  for (const char* count : {"100", "60", "41"}) {
    EXPECT_TRUE(absl::StrContains(over->message, count)) << over->message;
  }
  EXPECT_FALSE(Length(99, 1, false, &resolved));
  EXPECT_EQ(Length(100, 1, false, &resolved)->code, "context_length_exceeded");
  EXPECT_EQ(Length(100, std::nullopt, true, &resolved)->param, "messages");
}

TEST(ResolveLengthTest, SumsDoNotOverflow) {
  int32_t resolved = 0;
  EXPECT_TRUE(Length(1, INT32_MAX, false, &resolved));
  EXPECT_TRUE(Length(INT64_MAX / 2, INT32_MAX, false, &resolved));
}

TEST(ResolveLengthTest, WhatNoCacheHoldsIsRefusedAtOnce) {
  int32_t resolved = 0;
  const ModelLimits small = {.max_model_len = 100, .vocab_size = 50, .kv_tokens = 50};
  EXPECT_FALSE(Length(30, 20, false, &resolved, small));
  EXPECT_EQ(Length(30, 21, false, &resolved, small)->code, "kv_capacity_exceeded");
  EXPECT_EQ(Length(60, 1, false, &resolved, small)->code, "kv_capacity_exceeded");
  EXPECT_FALSE(Length(30, std::nullopt, true, &resolved, small));
  EXPECT_EQ(resolved, 20);
}

TEST(ResolveLengthTest, EmptyPromptsAreRefused) {
  int32_t resolved = 0;
  EXPECT_EQ(Length(0, 1, false, &resolved)->param, "prompt");
}

TEST(Utf8CheckTest, AcceptsShortestFormsOnly) {
  for (const char* good : {"",
                           "a",
                           "\xc2\x80",
                           "\xe0\xa0\x80",
                           "\xed\x9f\xbf",
                           "\xef\xbf\xbf",
                           "\xf0\x90\x80\x80",
                           "\xf4\x8f\xbf\xbf"}) {
    EXPECT_TRUE(IsValidUtf8(good));
  }
  for (const char* bad : {"\x80",
                          "\xc1\xbf",
                          "\xc3",
                          "\xe0\x9f\xbf",
                          "\xed\xa0\x80",
                          "\xe2\x82",
                          "\xf0\x8f\xbf\xbf",
                          "\xf4\x90\x80\x80",
                          "\xf5\x80\x80\x80",
                          "a\xff"}) {
    EXPECT_FALSE(IsValidUtf8(bad));
  }
}

}  // namespace
}  // namespace paceline::router
