// Workers behind a Kubernetes Service: lists its EndpointSlices at the API server, then watches
// them. A watch that breaks goes on where it was; one that has fallen too far behind starts with a
// new list. While the API server is away or refuses, the addresses last known stay.
// Owned by the process; Start and destruction from one thread.
#ifndef PACELINE_CLI_KUBERNETES_WORKERS_H_
#define PACELINE_CLI_KUBERNETES_WORKERS_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/http_client.h"

namespace paceline::cli {

// The EndpointSlices of one Service as far as they are known. Not thread-safe.
class EndpointSlices {
 public:
  // `port`: a number, or a name that is looked up in each slice.
  explicit EndpointSlices(std::string port) : port_(std::move(port)) {}

  // A page of a list; the first one forgets everything. The token for the next page; empty: that
  // was the last. InvalidArgument: not such a list.
  absl::StatusOr<std::string> TakePage(const std::string& json, bool is_first);
  // One event of a watch. OutOfRange: too far behind, list again. InvalidArgument: no such event.
  absl::Status TakeEvent(const std::string& json);

  // Ready addresses, "ip:port" (IPv6 in brackets), sorted, each once.
  std::vector<std::string> Addresses() const;
  // Where a watch goes on.
  const std::string& version() const { return version_; }

 private:
  const std::string port_;
  std::map<std::string, std::vector<std::string>> slices_;  // by name
  std::string version_;
};

class KubernetesWorkers {
 public:
  struct Options {
    HttpUrl api;  // https://host:port
    std::string service;
    std::string name_space;  // empty: that of this pod
    std::string port;
    // Where the pod has its token, the API server's certificate and its namespace.
    std::string credentials = "/var/run/secrets/kubernetes.io/serviceaccount";
    int64_t watch_s = 60;  // then the watch is opened anew
    int64_t min_backoff_ms = 200;
    int64_t max_backoff_ms = 15'000;
  };
  // Called on a thread of its own, first when the list is there and then after each change.
  using OnAddresses = std::function<void(std::vector<std::string> addresses)>;

  // FailedPrecondition: this is no pod, or its service account has no token.
  static absl::StatusOr<std::unique_ptr<KubernetesWorkers>> Start(Options options,
                                                                  OnAddresses on_addresses);
  ~KubernetesWorkers();
  KubernetesWorkers(const KubernetesWorkers&) = delete;
  KubernetesWorkers& operator=(const KubernetesWorkers&) = delete;

 private:
  KubernetesWorkers(Options options, OnAddresses on_addresses);

  void Loop();
  absl::Status List();
  absl::Status Watch();
  absl::StatusOr<HttpAnswer> Get(const std::string& query,
                                 int64_t timeout_ms,
                                 const HttpClient::OnBody& on_body = nullptr);
  void Publish();
  void Report(const absl::Status& status);
  // False: it is to stop.
  bool Wait(int64_t ms);

  const Options options_;
  const OnAddresses on_addresses_;
  HttpClient client_;

  // The thread's.
  EndpointSlices slices_;
  bool is_listed_ = false;
  bool has_published_ = false;
  std::vector<std::string> published_;
  std::string problem_;

  std::mutex mutex_;  // guards stop_
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread thread_;  // last: starts when everything else is there
};

}  // namespace paceline::cli

#endif  // PACELINE_CLI_KUBERNETES_WORKERS_H_
