// Against an API server that the test scripts.
#include "cli/kubernetes_workers.h"

#include <unistd.h>

#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/http_stub.h"
#include "tests/fakes/log_capture.h"

namespace paceline::cli {
namespace {

using router::HttpRequest;
using router::HttpResponse;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

using Addresses = std::vector<std::string>;

// An EndpointSlice as the API writes it.
std::string Slice(const std::string& name,
                  int version,
                  const Addresses& ready,
                  const std::string& more_endpoints = "",
                  const std::string& type = "IPv4") {
  std::vector<std::string> endpoints;
  for (const std::string& ip : ready) {
    endpoints.push_back(
        absl::StrCat(R"({"addresses":[")", ip, R"("],"conditions":{"ready":true}})"));
  }
  if (!more_endpoints.empty()) endpoints.push_back(more_endpoints);
  return absl::StrCat(
      R"({"metadata":{"name":")",
      name,
      R"(","resourceVersion":")",
      version,
      R"("},"addressType":")",
      type,
      R"(","ports":[{"name":"metrics","port":8002},{"name":"plane","port":50061}],)",
      R"("endpoints":[)",
      absl::StrJoin(endpoints, ","),
      "]}");
}

std::string List(int version, const Addresses& slices, const std::string& next = "") {
  return absl::StrCat(R"({"kind":"EndpointSliceList","metadata":{"resourceVersion":")",
                      version,
                      R"(","continue":")",
                      next,
                      R"("},"items":[)",
                      absl::StrJoin(slices, ","),
                      "]}");
}

std::string Event(const std::string& type, const std::string& object) {
  return absl::StrCat(R"({"type":")", type, R"(","object":)", object, "}\n");
}

TEST(EndpointSlicesTest, TakesReadyAddressesOfEverySlice) {
  EndpointSlices slices("50061");
  const auto next = slices.TakePage(List(7,
                                         {Slice("a", 5, {"10.0.0.2", "10.0.0.1"}),
                                          Slice("b", 6, {"10.0.0.1", "10.0.0.3"}),
                                          Slice("c", 7, {"fd00::1"}, "", "IPv6"),
                                          Slice("d", 7, {"example.com"}, "", "FQDN")}),
                                    true);
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(*next, "");
  EXPECT_EQ(slices.version(), "7");
  EXPECT_THAT(slices.Addresses(),
              ElementsAre("10.0.0.1:50061", "10.0.0.2:50061", "10.0.0.3:50061", "[fd00::1]:50061"));
}

TEST(EndpointSlicesTest, NotThoseThatAreNotReadyOrGo) {
  EndpointSlices slices("50061");
  const std::string more =
      R"({"addresses":["10.0.0.7"],"conditions":{"ready":false}},)"
      R"({"addresses":["10.0.0.8"],"conditions":{"ready":true,"terminating":true}},)"
      R"({"addresses":["10.0.0.9"]})";
  ASSERT_TRUE(slices.TakePage(List(1, {Slice("a", 1, {"10.0.0.1"}, more)}), true).ok());
  EXPECT_THAT(slices.Addresses(), ElementsAre("10.0.0.1:50061", "10.0.0.9:50061"));
}

TEST(EndpointSlicesTest, APortMayHaveAName) {
  EndpointSlices named("plane");
  ASSERT_TRUE(named.TakePage(List(1, {Slice("a", 1, {"10.0.0.1"})}), true).ok());
  EXPECT_THAT(named.Addresses(), ElementsAre("10.0.0.1:50061"));
  EndpointSlices unknown("other");
  ASSERT_TRUE(unknown.TakePage(List(1, {Slice("a", 1, {"10.0.0.1"})}), true).ok());
  EXPECT_THAT(unknown.Addresses(), IsEmpty());
}

TEST(EndpointSlicesTest, EventsChangeIt) {
  EndpointSlices slices("1");
  ASSERT_TRUE(slices.TakePage(List(1, {Slice("a", 1, {"10.0.0.1"})}), true).ok());
  EXPECT_TRUE(slices.TakeEvent(Event("ADDED", Slice("b", 2, {"10.0.0.2"}))).ok());
  EXPECT_THAT(slices.Addresses(), ElementsAre("10.0.0.1:1", "10.0.0.2:1"));
  EXPECT_TRUE(slices.TakeEvent(Event("MODIFIED", Slice("a", 3, {}))).ok());
  EXPECT_THAT(slices.Addresses(), ElementsAre("10.0.0.2:1"));
  EXPECT_TRUE(slices.TakeEvent(Event("DELETED", Slice("b", 4, {"10.0.0.2"}))).ok());
  EXPECT_THAT(slices.Addresses(), IsEmpty());
  EXPECT_TRUE(slices.TakeEvent(Event("BOOKMARK", R"({"metadata":{"resourceVersion":"90"}})")).ok());
  EXPECT_EQ(slices.version(), "90");
  EXPECT_EQ(slices.TakeEvent(Event("ERROR", R"({"code":410,"message":"too old"})")).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(slices.TakeEvent(Event("ERROR", R"({"code":500,"message":"etcd"})")).code(),
            absl::StatusCode::kUnavailable);
}

TEST(EndpointSlicesTest, WhatIsNoListChangesNothing) {
  EndpointSlices slices("1");
  ASSERT_TRUE(slices.TakePage(List(1, {Slice("a", 1, {"10.0.0.1"})}), true).ok());
  for (const char* bad : {"",
                          "{",
                          "[]",
                          "null",
                          R"({"items":1,"metadata":{"resourceVersion":"2"}})",
                          R"({"items":[{}],"metadata":{"resourceVersion":"2"}})",
                          R"({"items":[]})"}) {
    EXPECT_EQ(slices.TakePage(bad, true).status().code(), absl::StatusCode::kInvalidArgument)
        << bad;
    EXPECT_EQ(slices.TakeEvent(bad).code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_THAT(slices.Addresses(), ElementsAre("10.0.0.1:1"));
}

// What a pod has of its service account, and what was published so far.
class KubernetesWorkersTest : public testing::Test {
 protected:
  KubernetesWorkersTest() {
    std::string pattern = testing::TempDir() + "/account_XXXXXX";
    folder_ = mkdtemp(pattern.data());
    Write("token", "secret-1\n");
    Write("namespace", "models");
  }
  ~KubernetesWorkersTest() override { std::filesystem::remove_all(folder_); }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
  }
  absl::Status Start(const HttpStub& api) {
    auto started = KubernetesWorkers::Start(
        {.api = *ParseHttpUrl(absl::StrCat("http://127.0.0.1:", api.port())),
         .service = "workers",
         .port = "50061",
         .credentials = folder_,
         .min_backoff_ms = 1},
        [this](Addresses addresses) {
          const std::lock_guard lock(mutex_);
          published_.push_back(std::move(addresses));
          changed_.notify_all();
        });
    if (started.ok()) workers_ = *std::move(started);
    return started.status();
  }
  bool WaitFor(const Addresses& addresses) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60), [&] {
      return !published_.empty() && published_.back() == addresses;
    });
  }
  size_t num_published() {
    const std::lock_guard lock(mutex_);
    return published_.size();
  }

  std::filesystem::path folder_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Addresses> published_;  // guarded by mutex_
  std::unique_ptr<KubernetesWorkers> workers_;
};

bool IsWatch(const HttpRequest& request) { return absl::StrContains(request.target, "watch=true"); }

TEST_F(KubernetesWorkersTest, ListsThenWatchesFromThere) {
  const HttpStub api([](const HttpRequest& request, size_t index) -> std::optional<HttpResponse> {
    if (!IsWatch(request)) return HttpResponse{.body = List(11, {Slice("a", 11, {"10.0.0.1"})})};
    if (index == 1) {
      return HttpResponse{.body = Event("ADDED", Slice("b", 12, {"10.0.0.2"})) +
                                  Event("MODIFIED", Slice("a", 13, {}))};
    }
    return std::nullopt;
  });
  ASSERT_TRUE(Start(api).ok());
  EXPECT_TRUE(WaitFor({"10.0.0.2:50061"}));
  EXPECT_TRUE(api.WaitForRequests(3));  // the watch ended and goes on
  const auto requests = api.requests();
  EXPECT_THAT(requests[0].target,
              HasSubstr("/apis/discovery.k8s.io/v1/namespaces/models/endpointslices?labelSelector="
                        "kubernetes.io%2Fservice-name%3Dworkers"));
  EXPECT_EQ(requests[0].Header("authorization"), "Bearer secret-1");
  EXPECT_THAT(requests[1].target, HasSubstr("resourceVersion=11&"));
  EXPECT_THAT(requests[2].target, HasSubstr("resourceVersion=13&"));
}

TEST_F(KubernetesWorkersTest, ALongListComesInPages) {
  const HttpStub api([](const HttpRequest& request, size_t) -> std::optional<HttpResponse> {
    if (IsWatch(request)) return std::nullopt;
    if (absl::StrContains(request.target, "continue=more")) {
      return HttpResponse{.body = List(5, {Slice("b", 4, {"10.0.0.2"})})};
    }
    return HttpResponse{.body = List(5, {Slice("a", 4, {"10.0.0.1"})}, "more")};
  });
  ASSERT_TRUE(Start(api).ok());
  EXPECT_TRUE(WaitFor({"10.0.0.1:50061", "10.0.0.2:50061"}));
  EXPECT_EQ(num_published(), 1U);
}

TEST_F(KubernetesWorkersTest, AWatchThatIsTooOldStartsWithANewList) {
  for (const bool is_event : {false, true}) {
    published_.clear();
    const HttpStub api([=](const HttpRequest& request,
                           size_t index) -> std::optional<HttpResponse> {
      if (!IsWatch(request)) {
        return HttpResponse{.body =
                                List(11, {Slice("a", 11, {index == 0 ? "10.0.0.1" : "10.0.0.5"})})};
      }
      if (index > 1) return std::nullopt;
      if (is_event) return HttpResponse{.body = Event("ERROR", R"({"code":410})")};
      return HttpResponse{.status = 410, .body = "{}"};
    });
    ASSERT_TRUE(Start(api).ok());
    EXPECT_TRUE(WaitFor({"10.0.0.5:50061"})) << is_event;
    workers_ = nullptr;
  }
}

TEST_F(KubernetesWorkersTest, WhileTheApiIsAwayAddressesStay) {
  const LogCapture log;
  const HttpStub api([](const HttpRequest& request, size_t index) -> std::optional<HttpResponse> {
    if (index == 0) return HttpResponse{.body = List(11, {Slice("a", 11, {"10.0.0.1"})})};
    if (index < 5) return HttpResponse{.status = 500, .body = R"({"message":"etcd is away"})"};
    if (index == 5) return HttpResponse{.body = Event("ADDED", Slice("b", 12, {"10.0.0.2"}))};
    return std::nullopt;
  });
  ASSERT_TRUE(Start(api).ok());
  EXPECT_TRUE(WaitFor({"10.0.0.1:50061", "10.0.0.2:50061"}));
  EXPECT_TRUE(api.WaitForRequests(7));
  workers_ = nullptr;
  EXPECT_EQ(num_published(), 2U);
  const std::string note = "workers: the Kubernetes API answers 500: etcd is away";
  EXPECT_THAT(log.text(), HasSubstr(note));
  EXPECT_EQ(log.text().find(note), log.text().rfind(note)) << "once";
}

TEST_F(KubernetesWorkersTest, AMissingRoleIsAnErrorThatSaysWhatIsMissing) {
  const LogCapture log;
  const HttpStub api([](const HttpRequest&, size_t index) -> std::optional<HttpResponse> {
    return HttpResponse{.status = 403, .body = R"({"kind":"Status","message":"cannot list"})"};
  });
  ASSERT_TRUE(Start(api).ok());
  EXPECT_TRUE(api.WaitForRequests(3));
  workers_ = nullptr;
  EXPECT_THAT(log.text(),
              HasSubstr("error workers: the Kubernetes API answers 403: the service account must "
                        "be allowed to list and watch endpointslices (discovery.k8s.io) in "
                        "namespace models: cannot list"));
  EXPECT_EQ(num_published(), 0U);
}

TEST_F(KubernetesWorkersTest, TheTokenIsReadAnew) {
  const HttpStub api([this](const HttpRequest&, size_t index) -> std::optional<HttpResponse> {
    Write("token", "secret-2");
    return HttpResponse{.status = index == 0 ? 401 : 500};
  });
  ASSERT_TRUE(Start(api).ok());
  EXPECT_TRUE(api.WaitForRequests(2));
  workers_ = nullptr;
  EXPECT_EQ(api.requests()[1].Header("authorization"), "Bearer secret-2");
}

TEST_F(KubernetesWorkersTest, OutsideOfAPodItSaysSo) {
  std::filesystem::remove(folder_ / "token");
  const HttpStub api([](const HttpRequest&, size_t) { return HttpResponse{}; });
  const absl::Status status = Start(api);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("token is not there"));
}

}  // namespace
}  // namespace paceline::cli
