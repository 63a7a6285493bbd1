#include "cli/kubernetes_workers.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "proto/support/log.h"
#include "proto/support/status_macros.h"

namespace paceline::cli {
namespace {

using nlohmann::json;

constexpr int64_t kListTimeoutMs = 30'000;
constexpr size_t kMaxEventBytes = 16 << 20;

std::string ReadTrimmed(const std::string& path) {
  std::ifstream file(path);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  return std::string(absl::StripAsciiWhitespace(text));
}

// The slice's port: `wanted` itself when it is a number, else that of this name; empty: none such.
std::string PortOf(const json& slice, const std::string& wanted) {
  if (std::all_of(wanted.begin(), wanted.end(), absl::ascii_isdigit)) return wanted;
  for (const json& port : slice.value("ports", json::array())) {
    if (port.value("name", "") == wanted && port.contains("port")) {
      return absl::StrCat(port.at("port").get<int32_t>());
    }
  }
  return "";
}

std::vector<std::string> AddressesOf(const json& slice, const std::string& wanted_port) {
  std::vector<std::string> addresses;
  const std::string port = PortOf(slice, wanted_port);
  const std::string type = slice.at("addressType").get<std::string>();
  if (port.empty() || (type != "IPv4" && type != "IPv6")) return addresses;
  const json endpoints = slice.value("endpoints", json());
  for (const json& endpoint : endpoints.is_array() ? endpoints : json::array()) {
    const json conditions = endpoint.value("conditions", json::object());
    if (!conditions.value("ready", true) || conditions.value("terminating", false)) continue;
    for (const json& address : endpoint.at("addresses")) {
      const std::string ip = address.get<std::string>();
      addresses.push_back(type == "IPv6" ? absl::StrCat("[", ip, "]:", port)
                                         : absl::StrCat(ip, ":", port));
    }
  }
  return addresses;
}

// What a Status object of the API says.
std::string MessageOf(const std::string& body) {
  const json status = json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (!status.is_object() || !status.contains("message") || !status["message"].is_string()) {
    return "";
  }
  return absl::StrCat(": ", status["message"].get<std::string>().substr(0, 300));
}

}  // namespace

absl::StatusOr<std::string> EndpointSlices::TakePage(const std::string& text, bool is_first) {
  try {
    const json page = json::parse(text);
    std::map<std::string, std::vector<std::string>> slices;
    if (!is_first) slices = slices_;
    for (const json& slice : page.at("items")) {
      slices[slice.at("metadata").at("name").get<std::string>()] = AddressesOf(slice, port_);
    }
    const json& metadata = page.at("metadata");
    version_ = metadata.at("resourceVersion").get<std::string>();
    slices_ = std::move(slices);
    return metadata.value("continue", "");
  } catch (const json::exception&) {
    return absl::InvalidArgumentError("the answer is no list of EndpointSlices");
  }
}

absl::Status EndpointSlices::TakeEvent(const std::string& text) {
  try {
    const json event = json::parse(text);
    const std::string type = event.at("type").get<std::string>();
    const json& object = event.at("object");
    if (type == "ERROR") {
      if (object.value("code", 0) == 410) return absl::OutOfRangeError("the watch is too old");
      return absl::UnavailableError(absl::StrCat("the watch ends", MessageOf(object.dump())));
    }
    const json& metadata = object.at("metadata");
    version_ = metadata.at("resourceVersion").get<std::string>();
    if (type == "ADDED" || type == "MODIFIED") {
      slices_[metadata.at("name").get<std::string>()] = AddressesOf(object, port_);
    } else if (type == "DELETED") {
      slices_.erase(metadata.at("name").get<std::string>());
    }
    return absl::OkStatus();
  } catch (const json::exception&) {
    return absl::InvalidArgumentError("the watch brings what is no event");
  }
}

std::vector<std::string> EndpointSlices::Addresses() const {
  std::vector<std::string> all;
  for (const auto& [name, addresses] : slices_) {
    all.insert(all.end(), addresses.begin(), addresses.end());
  }
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

absl::StatusOr<std::unique_ptr<KubernetesWorkers>> KubernetesWorkers::Start(
    Options options, OnAddresses on_addresses) {
  if (ReadTrimmed(options.credentials + "/token").empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("--workers: kubernetes:/// needs a pod with a service account's token, but ",
                     options.credentials,
                     "/token is not there"));
  }
  if (options.name_space.empty())
    options.name_space = ReadTrimmed(options.credentials + "/namespace");
  if (options.name_space.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "--workers: the namespace is neither given nor in ", options.credentials, "/namespace"));
  }
  return std::unique_ptr<KubernetesWorkers>(
      new KubernetesWorkers(std::move(options), std::move(on_addresses)));
}

KubernetesWorkers::KubernetesWorkers(Options options, OnAddresses on_addresses)
    : options_(std::move(options)),
      on_addresses_(std::move(on_addresses)),
      client_(options_.api, {.ca = options_.credentials + "/ca.crt"}),
      slices_(options_.port),
      thread_([this] { Loop(); }) {}

KubernetesWorkers::~KubernetesWorkers() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  client_.Stop();
  thread_.join();
}

void KubernetesWorkers::Loop() {
  int64_t backoff_ms = options_.min_backoff_ms;
  for (;;) {
    const bool is_watch = is_listed_;
    const absl::Status status = is_watch ? Watch() : List();
    Report(status);
    int64_t pause_ms = 0;
    if (status.ok()) {
      backoff_ms = options_.min_backoff_ms;
      if (is_watch) pause_ms = backoff_ms;  // should the server close each at once
    } else if (absl::IsOutOfRange(status)) {
      is_listed_ = false;
    } else {
      pause_ms = backoff_ms;
      backoff_ms = std::min(options_.max_backoff_ms, backoff_ms * 2);
    }
    if (!Wait(pause_ms)) return;
  }
}

absl::Status KubernetesWorkers::List() {
  std::string page;
  bool is_first = true;
  do {
    ASSIGN_OR_RETURN(
        const HttpAnswer answer,
        Get(absl::StrCat("&limit=500", page.empty() ? "" : absl::StrCat("&continue=", page)),
            kListTimeoutMs));
    ASSIGN_OR_RETURN(page, slices_.TakePage(answer.body, is_first));
    is_first = false;
  } while (!page.empty());
  is_listed_ = true;
  Publish();
  return absl::OkStatus();
}

absl::Status KubernetesWorkers::Watch() {
  std::string line;
  absl::Status status;
  const auto on_body = [&](std::string_view bytes) {
    line.append(bytes);
    for (size_t end = line.find('\n'); end != std::string::npos; end = line.find('\n')) {
      status = slices_.TakeEvent(line.substr(0, end));
      line.erase(0, end + 1);
      if (!status.ok()) return false;
    }
    if (line.size() > kMaxEventBytes) status = absl::InvalidArgumentError("an event is too long");
    Publish();
    return status.ok();
  };
  const std::string query = absl::StrCat("&watch=true&allowWatchBookmarks=true&resourceVersion=",
                                         slices_.version(),
                                         "&timeoutSeconds=",
                                         options_.watch_s);
  RETURN_IF_ERROR(Get(query, (options_.watch_s + 10) * 1000, on_body).status());
  return status;
}

absl::StatusOr<HttpAnswer> KubernetesWorkers::Get(const std::string& query,
                                                  int64_t timeout_ms,
                                                  const HttpClient::OnBody& on_body) {
  // The token is replaced now and then.
  const std::string token = ReadTrimmed(options_.credentials + "/token");
  ASSIGN_OR_RETURN(HttpAnswer answer,
                   client_.Send({.target = absl::StrCat("/apis/discovery.k8s.io/v1/namespaces/",
                                                        options_.name_space,
                                                        "/endpointslices?labelSelector="
                                                        "kubernetes.io%2Fservice-name%3D",
                                                        options_.service,
                                                        query),
                                 .headers = {{"Authorization", absl::StrCat("Bearer ", token)},
                                             {"Accept", "application/json"}},
                                 .timeout_ms = timeout_ms},
                                on_body));
  if (answer.status == 200) return answer;
  if (answer.status == 410) return absl::OutOfRangeError("the version is too old");
  const std::string what = absl::StrCat("the Kubernetes API answers ", answer.status);
  if (answer.status == 401 || answer.status == 403) {
    return absl::PermissionDeniedError(
        absl::StrCat(what,
                     ": the service account must be allowed to list and watch endpointslices "
                     "(discovery.k8s.io) in namespace ",
                     options_.name_space,
                     MessageOf(answer.body)));
  }
  return absl::UnavailableError(absl::StrCat(what, MessageOf(answer.body)));
}

void KubernetesWorkers::Publish() {
  std::vector<std::string> addresses = slices_.Addresses();
  if (has_published_ && addresses == published_) return;
  has_published_ = true;
  published_ = addresses;
  spdlog::info("service {} in namespace {} has {} ready worker(s)",
               options_.service,
               options_.name_space,
               addresses.size());
  on_addresses_(std::move(addresses));
}

// Each problem once.
void KubernetesWorkers::Report(const absl::Status& status) {
  const bool is_problem = !status.ok() && !absl::IsOutOfRange(status) && !absl::IsCancelled(status);
  const std::string problem = is_problem ? std::string(status.message()) : "";
  if (problem == problem_) return;
  problem_ = problem;
  if (absl::IsPermissionDenied(status)) {
    spdlog::error("workers: {}", problem);
  } else if (is_problem) {
    spdlog::warn("workers: {}", problem);
  }
}

bool KubernetesWorkers::Wait(int64_t ms) {
  std::unique_lock lock(mutex_);
  return !wake_.wait_for(lock, std::chrono::milliseconds(ms), [this] { return stop_; });
}

}  // namespace paceline::cli
