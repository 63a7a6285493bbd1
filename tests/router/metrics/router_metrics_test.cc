#include "router/metrics/router_metrics.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace paceline::router {
namespace {

using testing::HasSubstr;
using testing::Not;

CallStats Finished() {
  return {.model = "m",
          .replica = "r0",
          .finished = "stop",
          .arrived_ns = 1'000'000'000,
          .queued_ns = 1'100'000'000,
          .sent_ns = 1'600'000'000,
          .first_token_ns = 2'000'000'000,
          .last_token_ns = 4'000'000'000,
          .finished_ns = 4'000'000'000,
          .prompt_tokens = 7,
          .generation_tokens = 5,
          .max_tokens = 16,
          .n = 1};
}

TEST(RouterMetricsTest, ExportsVllmNamesWithTheirLabels) {
  RouterMetrics metrics;
  metrics.OnFinished(Finished());
  metrics.OnTokens("m", "r0", 5);
  metrics.OnFirstToken("m", "r0", 1.0);
  metrics.SetModel("m", 3, 2);
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr(R"(vllm:prompt_tokens_total{engine="r0",model_name="m"} 7)"));
  EXPECT_THAT(text, HasSubstr(R"(vllm:generation_tokens_total{engine="r0",model_name="m"} 5)"));
  EXPECT_THAT(text, HasSubstr(R"(finished_reason="stop",model_name="m"} 1)"));
  EXPECT_THAT(text,
              HasSubstr(R"(vllm:e2e_request_latency_seconds_sum{engine="r0",model_name="m"} 3)"));
  EXPECT_THAT(text,
              HasSubstr(R"(vllm:request_queue_time_seconds_sum{engine="r0",model_name="m"} 0.5)"));
  // (4 s - 2 s) / (5 - 1) tokens.
  EXPECT_THAT(
      text,
      HasSubstr(
          R"(vllm:request_time_per_output_token_seconds_sum{engine="r0",model_name="m"} 0.5)"));
  EXPECT_THAT(text, HasSubstr(R"(vllm:num_requests_running{engine="router",model_name="m"} 3)"));
  EXPECT_THAT(text, HasSubstr(R"(vllm:num_requests_waiting{engine="router",model_name="m"} 2)"));
}

TEST(RouterMetricsTest, CountsByTenant) {
  RouterMetrics metrics;
  CallStats call = Finished();
  call.tenant = "acme";
  metrics.OnFinished(call);
  metrics.OnFinished(call);
  call.tenant = "key-0123abcd";  // of a key that names none
  metrics.OnFinished(call);
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr(R"(paceline_router_tenant_requests_total{tenant="acme"} 2)"));
  EXPECT_THAT(text, HasSubstr(R"(tenant_tokens_total{kind="prompt",tenant="acme"} 14)"));
  EXPECT_THAT(text, HasSubstr(R"(tenant_tokens_total{kind="generated",tenant="acme"} 10)"));
  EXPECT_THAT(text, HasSubstr(R"(tenant_queue_seconds_total{tenant="acme"} 1)"));
  EXPECT_THAT(text, HasSubstr(R"(tenant_requests_total{tenant="unnamed"} 1)"));
  EXPECT_THAT(text, Not(HasSubstr("0123abcd")));
}

TEST(RouterMetricsTest, TenantsAreBounded) {
  RouterMetrics metrics;
  CallStats call = Finished();
  for (int i = 0; i < 40; ++i) {
    call.tenant = "t" + std::to_string(i);
    metrics.OnFinished(call);
  }
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr(R"(tenant_requests_total{tenant="t31"} 1)"));
  EXPECT_THAT(text, Not(HasSubstr(R"(tenant="t32")")));
  EXPECT_THAT(text, HasSubstr(R"(tenant_requests_total{tenant="other"} 8)"));
}

TEST(RouterMetricsTest, UsesVllmBuckets) {
  RouterMetrics metrics;
  metrics.OnFirstToken("m", "r0", 0.03);
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr(R"(model_name="m",le="0.02"} 0)"));
  EXPECT_THAT(text, HasSubstr(R"(model_name="m",le="0.04"} 1)"));
  EXPECT_THAT(text, HasSubstr(R"(model_name="m",le="2560"} 1)"));
}

TEST(RouterMetricsTest, LeavesVllmNamesOutWhenTold) {
  RouterMetrics metrics(/*vllm_names=*/false);
  metrics.OnFinished(Finished());
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("vllm:")));
  metrics.OnSent("m", 0, 0.001);
  EXPECT_THAT(metrics.Text(), HasSubstr("paceline_router_added_latency_seconds"));
}

TEST(RouterMetricsTest, CountsEveryAnswerByRouteCodeAndTenantClass) {
  RouterMetrics metrics;
  metrics.OnAnswered("/v1/completions", absl::StatusCode::kOk, "keyed");
  metrics.OnAnswered("/v1/completions", absl::StatusCode::kUnauthenticated, "none");
  metrics.OnAnswered("/v1/completions", absl::StatusCode::kUnauthenticated, "none");
  metrics.OnAnswered("", absl::StatusCode::kNotFound, "default");
  for (const char* series :
       {R"({code="ok",route="/v1/completions",tenant_class="keyed"} 1)",
        R"({code="unauthenticated",route="/v1/completions",tenant_class="none"} 2)",
        R"({code="not_found",route="other",tenant_class="default"} 1)"}) {
    EXPECT_THAT(metrics.Text(), HasSubstr(std::string("paceline_router_requests_total") + series));
  }
}

TEST(RouterMetricsTest, CallsThatNoReplicaRanHaveNoEngineSeries) {
  RouterMetrics metrics;
  metrics.OnFinished({.finished = "error"});
  metrics.OnReject("model_not_found");
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("vllm:")));
  EXPECT_THAT(metrics.Text(),
              HasSubstr(R"(paceline_router_admission_rejects_total{reason="model_not_found"} 1)"));
}

TEST(RouterMetricsTest, ShowsAReplicasStateAndForgetsItWhenItLeaves) {
  RouterMetrics metrics;
  metrics.SetReplica({.replica = "r0", .model = "m", .state = "ready", .epoch = 4});
  metrics.OnFinished(Finished());
  EXPECT_THAT(metrics.Text(), HasSubstr(R"(replica="r0",state="ready"} 1)"));
  EXPECT_THAT(metrics.Text(), HasSubstr(R"(replica="r0",state="lost"} 0)"));
  metrics.RemoveReplica("r0");
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("r0")));
  metrics.OnFinished(Finished());  // and may come back
  EXPECT_THAT(metrics.Text(), HasSubstr("r0"));
}

}  // namespace
}  // namespace paceline::router
