// A client of bare sockets, for tests that send what no HTTP library would. Not thread-safe.
#ifndef PACELINE_TESTS_ROUTER_HTTP_RAW_CLIENT_H_
#define PACELINE_TESTS_ROUTER_HTTP_RAW_CLIENT_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <string>

#include "nlohmann/json.hpp"

namespace paceline::router {

struct RawResponse {
  int status = 0;                              // 0: the connection closed or nothing came in time
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // chunks put together
  bool complete = false;                       // the body came to its proper end
  nlohmann::json json() const { return nlohmann::json::parse(body, nullptr, false); }
  std::string error_code() const;
};

class RawClient {
 public:
  using Timeout = std::chrono::milliseconds;

  explicit RawClient(uint16_t port, int receive_buffer_bytes = 0);
  ~RawClient();
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  bool connected() const { return fd_ >= 0; }
  // False when the peer has closed.
  bool Send(const std::string& bytes);
  // The next whole response; what follows it stays for the next call.
  RawResponse Receive(Timeout timeout = Timeout(60'000), bool head_only_body = false);
  // Until `text` was received (or the end); what came so far stays for Receive.
  bool ReceiveUntil(const std::string& text, Timeout timeout = Timeout(60'000));
  // True when the peer closes within `timeout`; what comes before is dropped.
  bool WaitForClose(Timeout timeout = Timeout(60'000));
  void ShutdownWrite();
  void Reset();  // RST instead of FIN
  void Close();
  const std::string& received() const { return received_; }

 private:
  bool Read(std::chrono::steady_clock::time_point deadline);

  int fd_ = -1;
  bool ended_ = false;
  std::string received_;
};

// Requests in one piece.
std::string GetRequest(const std::string& target, const std::string& headers = "");
std::string PostRequest(const std::string& target,
                        const std::string& body,
                        const std::string& headers = "Content-Type: application/json\r\n");
// On a connection of its own.
RawResponse RoundTrip(uint16_t port, const std::string& request);

}  // namespace paceline::router

#endif  // PACELINE_TESTS_ROUTER_HTTP_RAW_CLIENT_H_
