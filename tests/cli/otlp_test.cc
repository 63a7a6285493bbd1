// Traces to a collector: options from the environment, batches, retries, what is dropped. What is
// on the wire is checked against the published schema by tests/e2e/test_traces.py.
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cli/otlp_exporter.h"
#include "cli/otlp_options.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/otlp/trace.pb.h"
#include "proto/support/clock.h"
#include "proto/support/trace.h"
#include "tests/fakes/http_stub.h"
#include "tests/fakes/log_capture.h"

namespace paceline::cli {
namespace {

using router::HttpRequest;
using router::HttpResponse;
using testing::HasSubstr;
using testing::Pair;

using Variables = std::map<std::string, std::string>;

absl::StatusOr<std::optional<OtlpOptions>> Find(const std::string& endpoint,
                                                const Variables& variables) {
  return FindOtlpOptions(endpoint, [&](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

TEST(OtlpOptionsTest, NothingIsSentUnlessSomebodySaysWhere) {
  EXPECT_FALSE(Find("", {})->has_value());
  EXPECT_FALSE(Find("", {{"OTEL_SERVICE_NAME", "x"}})->has_value());
  EXPECT_FALSE(Find("http://c/v1/traces", {{"OTEL_SDK_DISABLED", "true"}})->has_value());
  EXPECT_FALSE(Find("http://c/v1/traces", {{"OTEL_TRACES_EXPORTER", "none"}})->has_value());
}

TEST(OtlpOptionsTest, TheOptionGoesBeforeTheVariablesAndTheirsForTracesFirst) {
  Variables variables = {{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318/"}};
  EXPECT_EQ((*Find("", variables))->url.target, "/v1/traces");
  EXPECT_EQ((*Find("", variables))->url.host, "all");
  variables["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = "http://traces:4318/here";
  EXPECT_EQ((*Find("", variables))->url.host, "traces");
  EXPECT_EQ((*Find("", variables))->url.target, "/here");
  EXPECT_EQ((*Find("http://option:1/there", variables))->url.host, "option");
}

TEST(OtlpOptionsTest, ReadsWhatTheStandardNames) {
  const auto found = Find("",
                          {{"OTEL_EXPORTER_OTLP_ENDPOINT", "https://c"},
                           {"OTEL_EXPORTER_OTLP_HEADERS", "a=b%20c, d=e"},
                           {"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "1500"},
                           {"OTEL_EXPORTER_OTLP_TIMEOUT", "9"},
                           {"OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"},
                           {"OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"},
                           {"OTEL_RESOURCE_ATTRIBUTES", "service.name=no,k8s.pod.name=p"},
                           {"OTEL_SERVICE_NAME", "mine"},
                           {"OTEL_TRACES_SAMPLER", "parentbased_traceidratio"},
                           {"OTEL_TRACES_SAMPLER_ARG", "0.25"},
                           {"OTEL_BSP_MAX_QUEUE_SIZE", "10"},
                           {"OTEL_BSP_SCHEDULE_DELAY", "20"}});
  ASSERT_TRUE(found.ok()) << found.status();
  const OtlpOptions& options = **found;
  EXPECT_THAT(options.headers, testing::ElementsAre(Pair("a", "b c"), Pair("d", "e")));
  EXPECT_EQ(options.timeout_ms, 1500);
  EXPECT_EQ(options.tls.ca, "/ca.pem");
  EXPECT_EQ(options.service_name, "mine");
  EXPECT_THAT(options.resource, testing::ElementsAre(Pair("k8s.pod.name", "p")));
  EXPECT_EQ(options.ratio, 0.25);
  EXPECT_TRUE(options.follows_caller);
  EXPECT_EQ(options.max_queue, 10);
  EXPECT_EQ(options.max_batch, 10);
  EXPECT_EQ(options.delay_ms, 20);
}

TEST(OtlpOptionsTest, NamesWhatIsWrong) {
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {"OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"},
      {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"},
      {"OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"},
      {"OTEL_EXPORTER_OTLP_HEADERS", "no-equals"},
      {"OTEL_EXPORTER_OTLP_HEADERS", "a=%0d%0ab"},
      {"OTEL_EXPORTER_OTLP_HEADERS", "a=%2"},
      {"OTEL_EXPORTER_OTLP_TIMEOUT", "soon"},
      {"OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key.pem"},
      {"OTEL_BSP_MAX_QUEUE_SIZE", "0"},
      {"OTEL_TRACES_SAMPLER", "sometimes"}};
  for (const auto& [name, value] : wrong) {
    Variables variables = {{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"}};
    variables[name] = value;
    const absl::Status status = Find("", variables).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
  }
  EXPECT_THAT(std::string(Find("c:4318", {}).status().message()),
              HasSubstr("--otlp-traces-endpoint"));
}

OtlpOptions OptionsFor(int port) {
  OtlpOptions options{.url = *ParseHttpUrl(absl::StrCat("http://127.0.0.1:", port, "/v1/traces"))};
  options.delay_ms = 5;
  options.backoff_ms = 1;
  return options;
}

const OtlpExporter::Process kProcess = {
    .service_name = "paceline-test", .instance_id = "i1", .metric_prefix = "paceline_test"};

Span MakeSpan(const std::string& name = "work") {
  return {.trace_id = "0af7651916cd43dd8448eb211c80319c",
          .id = "00f067aa0ba902b7",
          .name = name,
          .start_ns = SteadyClock::Get().NowNs(),
          .end_ns = SteadyClock::Get().NowNs() + 5};
}

std::string Counted(const char* outcome, int count) {
  return absl::StrCat("paceline_test_trace_spans_total{outcome=\"", outcome, "\"} ", count, "\n");
}

otlp::ExportTraceServiceRequest Decoded(const HttpRequest& request) {
  otlp::ExportTraceServiceRequest message;
  EXPECT_TRUE(message.ParseFromString(request.body));
  return message;
}

TEST(OtlpExporterTest, WhatWaitsIsSentBeforeTheEnd) {
  const HttpStub collector([](const HttpRequest&, size_t) { return HttpResponse{}; });
  OtlpOptions options = OptionsFor(collector.port());
  options.delay_ms = 600'000;
  options.headers = {{"X-Token", "t"}};
  {
    OtlpExporter exporter(options, kProcess);
    exporter.Add(MakeSpan("a"));
    exporter.Add(MakeSpan("b"));
  }
  ASSERT_EQ(collector.requests().size(), 1U);
  const HttpRequest request = collector.requests()[0];
  EXPECT_EQ(request.target, "/v1/traces");
  EXPECT_EQ(request.Header("content-type"), "application/x-protobuf");
  EXPECT_EQ(request.Header("x-token"), "t");
  EXPECT_EQ(Decoded(request).resource_spans(0).scope_spans(0).spans_size(), 2);
}

TEST(OtlpExporterTest, ABatchIsSentWhenItIsFullOrLate) {
  const HttpStub collector([](const HttpRequest&, size_t) { return HttpResponse{}; });
  OtlpOptions options = OptionsFor(collector.port());
  options.delay_ms = 600'000;
  options.max_batch = 3;
  OtlpExporter full(options, kProcess);
  for (int i = 0; i < 3; ++i) full.Add(MakeSpan());
  EXPECT_TRUE(collector.WaitForRequests(1));
  options.delay_ms = 1;
  OtlpExporter late(options, kProcess);
  late.Add(MakeSpan());
  EXPECT_TRUE(collector.WaitForRequests(2));
}

TEST(OtlpExporterTest, AFullQueueDropsAndCounts) {
  const HttpStub collector(
      [](const HttpRequest&, size_t) -> std::optional<HttpResponse> { return std::nullopt; });
  OtlpOptions options = OptionsFor(collector.port());
  options.max_queue = options.max_batch = 4;
  options.timeout_ms = 600'000;
  auto exporter = std::make_unique<OtlpExporter>(options, kProcess);
  for (int i = 0; i < 4; ++i) exporter->Add(MakeSpan());
  ASSERT_TRUE(collector.WaitForRequests(1));  // the queue is empty again, the collector hangs
  for (int i = 0; i < 10; ++i) exporter->Add(MakeSpan());
  EXPECT_THAT(exporter->MetricsText(), HasSubstr(Counted("dropped", 6)));
}

TEST(OtlpExporterTest, TriesAgainWhenTheCollectorIsBusyAndNotWhenItRefuses) {
  const LogCapture log;
  const HttpStub collector([](const HttpRequest&, size_t index) {
    return HttpResponse{.status = index == 0 ? 503 : index == 1 ? 200 : 400};
  });
  std::string metrics;
  {
    OtlpExporter exporter(OptionsFor(collector.port()), kProcess);
    exporter.Add(MakeSpan("busy"));
    ASSERT_TRUE(collector.WaitForRequests(2));
    exporter.Add(MakeSpan("refused"));
    ASSERT_TRUE(collector.WaitForRequests(3));
    while (!absl::StrContains(exporter.MetricsText(), Counted("failed", 1))) {
      std::this_thread::yield();
    }
    metrics = exporter.MetricsText();
  }
  EXPECT_EQ(collector.requests()[0].body, collector.requests()[1].body);
  EXPECT_EQ(collector.requests().size(), 3U);
  EXPECT_THAT(metrics, HasSubstr(Counted("exported", 1)));
  EXPECT_THAT(log.text(), HasSubstr("traces cannot be exported: the collector answers 503"));
  EXPECT_THAT(log.text(), HasSubstr("traces are exported again"));
}

TEST(OtlpExporterTest, WhatTheCollectorRejectsHasFailed) {
  const HttpStub collector([](const HttpRequest&, size_t) {
    otlp::ExportTraceServiceResponse response;
    response.mutable_partial_success()->set_rejected_spans(1);
    return HttpResponse{.body = response.SerializeAsString()};
  });
  OtlpOptions options = OptionsFor(collector.port());
  options.max_batch = 3;
  OtlpExporter exporter(options, kProcess);
  for (int i = 0; i < 3; ++i) exporter.Add(MakeSpan());
  while (!absl::StrContains(exporter.MetricsText(), Counted("exported", 2))) {
    std::this_thread::yield();
  }
  EXPECT_THAT(exporter.MetricsText(), HasSubstr(Counted("failed", 1)));
}

TEST(OtlpExporterTest, EndsThoughNobodyListens) {
  int port = 0;
  {
    const HttpStub collector([](const HttpRequest&, size_t) { return HttpResponse{}; });
    port = collector.port();
  }
  OtlpExporter exporter(OptionsFor(port), kProcess);
  exporter.Add(MakeSpan());
}

TEST(OtlpExporterTest, SamplesAsItsCallerOrByTheTraceId) {
  OtlpOptions options = OptionsFor(1);
  options.ratio = 0.25;
  const OtlpExporter exporter(options, kProcess);
  int sampled = 0;
  for (int i = 0; i < 4000; ++i) {
    const std::string id = NewTraceId();
    sampled += exporter.Samples(id, "") ? 1 : 0;
    EXPECT_EQ(exporter.Samples(id, ""), exporter.Samples(id, ""));
    EXPECT_TRUE(exporter.Samples(id, MakeTraceparent(id, NewSpanId(), true)));
    EXPECT_FALSE(exporter.Samples(id, MakeTraceparent(id, NewSpanId(), false)));
  }
  EXPECT_GT(sampled, 800);
  EXPECT_LT(sampled, 1200);
  options.follows_caller = false;
  options.ratio = 0;
  const OtlpExporter never(options, kProcess);
  const std::string id = NewTraceId();
  EXPECT_FALSE(never.Samples(id, MakeTraceparent(id, NewSpanId(), true)));
}

}  // namespace
}  // namespace paceline::cli
