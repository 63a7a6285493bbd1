// HTTP/1.1 requests to servers that Paceline itself needs: a trace collector, the Kubernetes API.
// With TLS for https:// URLs. Each request has a connection of its own; the calling thread waits.
// Owned by who asks. Send: one thread at a time. Stop: any thread.
#ifndef PACELINE_CLI_HTTP_CLIENT_H_
#define PACELINE_CLI_HTTP_CLIENT_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace paceline::cli {

struct HttpUrl {
  bool is_tls = false;
  std::string host;    // IPv6 without brackets
  std::string port;    // 80 and 443 when the URL has none
  std::string target;  // path and query; at least "/"

  // As the Host field has it.
  std::string Authority() const;
};

// http://… and https://… without user and fragment. InvalidArgument says what is wrong, without
// the URL, which may hold a secret.
absl::StatusOr<HttpUrl> ParseHttpUrl(std::string_view url);

// Files in PEM; empty: none.
struct TlsFiles {
  std::string ca;           // whom to trust; empty: whom the system trusts
  std::string certificate;  // to show, and its key
  std::string key;
};

struct HttpAnswer {
  unsigned status = 0;
  std::string body;
  int64_t retry_after_s = 0;  // 0: it does not say
};

class HttpClient {
 public:
  struct Request {
    std::string method = "GET";
    std::string target;
    std::vector<std::pair<std::string, std::string>> headers;
    std::string body;  // sent with POST
    // For all of it; with `on_body`, for the head and then for each pause.
    int64_t timeout_ms = 10'000;
  };
  // Takes the next bytes of a body; false: enough.
  using OnBody = std::function<bool(std::string_view bytes)>;

  // `url`'s target does not count. The files are read anew for every request.
  explicit HttpClient(HttpUrl url, TlsFiles tls = {})
      : url_(std::move(url)), tls_(std::move(tls)) {}
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  const HttpUrl& url() const { return url_; }

  // The answer, whatever its status. The body of a 200 goes to `on_body`, if there is one, as it
  // comes; any other goes into the answer and has at most 16 MiB. Errors:
  //   InvalidArgument   a TLS file cannot be used
  //   Unavailable       no connection, or it broke
  //   DeadlineExceeded  the time-out passed
  //   Cancelled         Stop was called
  absl::StatusOr<HttpAnswer> Send(const Request& request, const OnBody& on_body = nullptr) const;

  // Ends what runs, within a tenth of a second unless it is looking up a name, and all that comes.
  void Stop() { stopped_ = true; }

 private:
  const HttpUrl url_;
  const TlsFiles tls_;
  std::atomic<bool> stopped_{false};
};

}  // namespace paceline::cli

#endif  // PACELINE_CLI_HTTP_CLIENT_H_
