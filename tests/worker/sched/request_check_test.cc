#include "worker/sched/request_check.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>

namespace paceline::worker {
namespace {

constexpr RequestLimits kLimits{.vocab_size = 10, .max_model_len = 20, .max_kv_tokens = 16};

Request Valid() {
  Request request;
  request.token_ids = {1, 2, 3};
  request.num_prompt_tokens = 3;
  request.sampling.max_tokens = 4;
  return request;
}

TEST(RequestCheckTest, AcceptsAValidRequest) { EXPECT_TRUE(CheckRequest(Valid(), kLimits).ok()); }

struct Case {
  std::string name;
  std::function<void(Request&)> spoil;
};

class RequestCheckRefusalTest : public testing::TestWithParam<Case> {};

TEST_P(RequestCheckRefusalTest, RefusesWithInvalidArgument) {
  Request request = Valid();
  GetParam().spoil(request);
  EXPECT_EQ(CheckRequest(request, kLimits).code(), absl::StatusCode::kInvalidArgument);
}

constexpr int32_t kMax = std::numeric_limits<int32_t>::max();

INSTANTIATE_TEST_SUITE_P(
    Fields,
    RequestCheckRefusalTest,
    testing::Values(Case{"NoTokens", [](Request& r) { r.token_ids.clear(); }},
                    Case{"NoPrompt", [](Request& r) { r.num_prompt_tokens = 0; }},
                    Case{"PromptLongerThanTokens", [](Request& r) { r.num_prompt_tokens = 4; }},
                    Case{"NegativeToken", [](Request& r) { r.token_ids[1] = -1; }},
                    Case{"TokenAtVocabularySize", [](Request& r) { r.token_ids[1] = 10; }},
                    Case{"StopTokenOutside", [](Request& r) { r.sampling.stop_token_ids = {10}; }},
                    Case{"AllowedTokenOutside",
                         [](Request& r) { r.sampling.allowed_token_ids = {-1}; }},
                    Case{"BiasedTokenOutside",
                         [](Request& r) {
                           r.sampling.logit_bias = {{10, 1.0F}};
                         }},
                    Case{"NoChoices", [](Request& r) { r.n = 0; }},
                    Case{"NegativeChoices", [](Request& r) { r.n = -1; }},
                    Case{"TooManyChoices", [](Request& r) { r.n = kMaxChoices + 1; }},
                    Case{"NegativeChoiceIndex", [](Request& r) { r.first_choice_index = -1; }},
                    Case{"HugeChoiceIndex", [](Request& r) { r.first_choice_index = kMax; }},
                    Case{"NoMaxTokens", [](Request& r) { r.sampling.max_tokens = 0; }},
                    Case{"NegativeMinTokens", [](Request& r) { r.sampling.min_tokens = -1; }},
                    Case{"MinAboveMaxTokens", [](Request& r) { r.sampling.min_tokens = 5; }},
                    Case{"ReplayIsComplete",
                         [](Request& r) {
                           r.num_prompt_tokens = 1;
                           r.sampling.max_tokens = 2;
                         }},
                    Case{"PromptFillsTheContext",
                         [](Request& r) {
                           r.token_ids.assign(20, 1);
                           r.num_prompt_tokens = 20;
                         }},
                    Case{"MoreThanTheKvCacheHolds", [](Request& r) { r.sampling.max_tokens = 15; }},
                    Case{"SumOverflows", [](Request& r) { r.sampling.max_tokens = kMax; }}),
    [](const auto& info) { return info.param.name; });

TEST(RequestCheckTest, LastTokenNeedsNoKv) {
  Request request = Valid();
  request.sampling.max_tokens = 14;  // 17 tokens, 16 with KV
  EXPECT_TRUE(CheckRequest(request, kLimits).ok());
}

TEST(RequestCheckTest, TotalIsCappedByTheContextWithoutOverflow) {
  Request request = Valid();
  request.sampling.max_tokens = kMax;
  EXPECT_EQ(MaxTotalTokens(request, 20), 20);
}

TEST(RequestCheckTest, ErrorTextHoldsNoTokenIds) {
  Request request = Valid();
  request.token_ids[0] = 987654;
  EXPECT_EQ(CheckRequest(request, kLimits).ToString().find("987654"), std::string::npos);
}

}  // namespace
}  // namespace paceline::worker
