#include "worker/service/submit.h"

#include <cmath>
#include <functional>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace paceline::worker {
namespace {

constexpr SubmitLimits kLimits{.vocab_size = 100, .max_model_len = 64};

v1::Submit Good() {
  v1::Submit submit;
  submit.set_request_id("r");
  for (const int id : {1, 2, 99}) submit.add_prompt_token_ids(id);
  submit.set_num_prompt_tokens(3);
  submit.set_n(2);
  submit.set_seed(7);
  submit.set_deadline_ms(250);
  v1::EngineSampling& s = *submit.mutable_sampling();
  s.set_max_tokens(10);
  s.set_temperature(0.5);
  s.set_top_p(0.9);
  s.set_repetition_penalty(1.1);
  s.set_logprobs(-1);
  s.set_prompt_logprobs(-1);
  s.add_logit_bias_ids(5);
  s.add_logit_bias_values(-1.5);
  s.add_stop_token_ids(6);
  return submit;
}

TEST(SubmitTest, CarriesEveryField) {
  const auto request = RequestFromSubmit(Good(), kLimits, 11, 1'000'000'000);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->id, "r");
  EXPECT_EQ(request->session, 11U);
  EXPECT_THAT(request->token_ids, testing::ElementsAre(1, 2, 99));
  EXPECT_EQ(request->num_prompt_tokens, 3);
  EXPECT_EQ(request->n, 2);
  EXPECT_EQ(request->seed, 7U);
  EXPECT_EQ(request->deadline_ns, 1'250'000'000);
  EXPECT_EQ(request->sampling.max_tokens, 10);
  EXPECT_FLOAT_EQ(request->sampling.temperature, 0.5F);
  EXPECT_FLOAT_EQ(request->sampling.top_p, 0.9F);
  EXPECT_THAT(request->sampling.logit_bias, testing::ElementsAre(testing::Pair(5, -1.5F)));
  EXPECT_THAT(request->sampling.stop_token_ids, testing::ElementsAre(6));
}

TEST(SubmitTest, ATraceContextIsKeptOnlyIfItIsOne) {
  const std::string trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  v1::Submit submit = Good();
  EXPECT_EQ(RequestFromSubmit(submit, kLimits, 1, 0)->traceparent, "");
  submit.set_traceparent(trace);
  EXPECT_EQ(RequestFromSubmit(submit, kLimits, 1, 0)->traceparent, trace);
  submit.set_traceparent("two\nlines");
  EXPECT_EQ(RequestFromSubmit(submit, kLimits, 1, 0)->traceparent, "");
}

struct BadSubmit {
  const char* field;  // that the error must name
  std::function<void(v1::Submit&)> spoil;
};

class BadSubmitTest : public testing::TestWithParam<BadSubmit> {};

TEST_P(BadSubmitTest, IsRefusedNamingTheField) {
  v1::Submit submit = Good();
  GetParam().spoil(submit);
  const auto request = RequestFromSubmit(submit, kLimits, 1, 0);
  ASSERT_FALSE(request.ok());
  EXPECT_THAT(std::string(request.status().message()), testing::StartsWith(GetParam().field));
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

INSTANTIATE_TEST_SUITE_P(
    All,
    BadSubmitTest,
    testing::Values(
        BadSubmit{"request_id", [](v1::Submit& s) { s.set_request_id(""); }},
        BadSubmit{"request_id", [](v1::Submit& s) { s.set_request_id(std::string(300, 'x')); }},
        BadSubmit{"request_id", [](v1::Submit& s) { s.set_request_id("two\nlines"); }},
        BadSubmit{"cache_salt", [](v1::Submit& s) { s.set_cache_salt(std::string(300, 'x')); }},
        BadSubmit{"adapter", [](v1::Submit& s) { s.set_adapter("a"); }},
        BadSubmit{"n", [](v1::Submit& s) { s.set_n(0); }},
        BadSubmit{"n", [](v1::Submit& s) { s.set_n(17); }},
        BadSubmit{"n", [](v1::Submit& s) { s.set_num_prompt_tokens(2); }},
        BadSubmit{"prompt_token_ids", [](v1::Submit& s) { s.set_prompt_token_ids(0, -1); }},
        BadSubmit{"prompt_token_ids", [](v1::Submit& s) { s.set_prompt_token_ids(0, 100); }},
        BadSubmit{"num_prompt_tokens", [](v1::Submit& s) { s.set_num_prompt_tokens(0); }},
        BadSubmit{"num_prompt_tokens", [](v1::Submit& s) { s.set_num_prompt_tokens(4); }},
        BadSubmit{"deadline_ms", [](v1::Submit& s) { s.set_deadline_ms(-1); }},
        BadSubmit{"max_tokens", [](v1::Submit& s) { s.mutable_sampling()->set_max_tokens(0); }},
        BadSubmit{"max_tokens", [](v1::Submit& s) { s.mutable_sampling()->set_max_tokens(65); }},
        BadSubmit{"min_tokens", [](v1::Submit& s) { s.mutable_sampling()->set_min_tokens(11); }},
        BadSubmit{"temperature",
                  [](v1::Submit& s) { s.mutable_sampling()->set_temperature(kNan); }},
        BadSubmit{"temperature", [](v1::Submit& s) { s.mutable_sampling()->set_temperature(-1); }},
        BadSubmit{"top_p", [](v1::Submit& s) { s.mutable_sampling()->set_top_p(0); }},
        BadSubmit{"top_k", [](v1::Submit& s) { s.mutable_sampling()->set_top_k(-1); }},
        BadSubmit{"min_p", [](v1::Submit& s) { s.mutable_sampling()->set_min_p(1.5); }},
        BadSubmit{"frequency_penalty",
                  [](v1::Submit& s) { s.mutable_sampling()->set_frequency_penalty(3); }},
        BadSubmit{"presence_penalty",
                  [](v1::Submit& s) { s.mutable_sampling()->set_presence_penalty(-3); }},
        BadSubmit{"repetition_penalty",
                  [](v1::Submit& s) { s.mutable_sampling()->set_repetition_penalty(0); }},
        BadSubmit{"logprobs", [](v1::Submit& s) { s.mutable_sampling()->set_logprobs(21); }},
        BadSubmit{"prompt_logprobs",
                  [](v1::Submit& s) { s.mutable_sampling()->set_prompt_logprobs(21); }},
        BadSubmit{"logit_bias", [](v1::Submit& s) { s.mutable_sampling()->add_logit_bias_ids(1); }},
        BadSubmit{"logit_bias",
                  [](v1::Submit& s) { s.mutable_sampling()->set_logit_bias_ids(0, 100); }},
        BadSubmit{"logit_bias",
                  [](v1::Submit& s) { s.mutable_sampling()->set_logit_bias_values(0, kNan); }},
        BadSubmit{"allowed_token_ids",
                  [](v1::Submit& s) { s.mutable_sampling()->add_allowed_token_ids(100); }},
        BadSubmit{"stop_token_ids",
                  [](v1::Submit& s) { s.mutable_sampling()->set_stop_token_ids(0, -2); }}));

}  // namespace
}  // namespace paceline::worker
