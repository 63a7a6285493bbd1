#include "tests/router/http/raw_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

namespace paceline::router {

using Clock = std::chrono::steady_clock;

std::string RawResponse::error_code() const {
  const nlohmann::json parsed = json();
  if (!parsed.is_object() || !parsed.contains("error")) return "(no error object)";
  const auto& code = parsed["error"]["code"];
  return code.is_string() ? code.get<std::string>() : "(none)";
}

RawClient::RawClient(uint16_t port, int receive_buffer_bytes) {
  fd_ = socket(AF_INET, SOCK_STREAM, 0);
  const int on = 1;
  setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  if (receive_buffer_bytes > 0) {
    setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof(receive_buffer_bytes));
  }
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) Close();
}

RawClient::~RawClient() { Close(); }

bool RawClient::Send(const std::string& bytes) {
  size_t sent = 0;
  while (fd_ >= 0 && sent < bytes.size()) {
    const ssize_t count = send(fd_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (count <= 0) return false;
    sent += count;
  }
  return fd_ >= 0;
}

bool RawClient::Read(Clock::time_point deadline) {
  if (fd_ < 0 || ended_) return false;
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
  pollfd entry{.fd = fd_, .events = POLLIN};
  if (poll(&entry, 1, static_cast<int>(std::max<int64_t>(0, left))) <= 0) return false;
  char buffer[65536];
  const ssize_t count = recv(fd_, buffer, sizeof(buffer), 0);
  if (count <= 0) {
    ended_ = true;
    return false;
  }
  received_.append(buffer, count);
  return true;
}

bool RawClient::ReceiveUntil(const std::string& text, Timeout timeout) {
  const auto deadline = Clock::now() + timeout;
  while (received_.find(text) == std::string::npos) {
    if (!Read(deadline)) return false;
  }
  return true;
}

RawResponse RawClient::Receive(Timeout timeout, bool head_only_body) {
  const auto deadline = Clock::now() + timeout;
  RawResponse response;
  size_t end;
  while ((end = received_.find("\r\n\r\n")) == std::string::npos) {
    if (!Read(deadline)) return response;
  }
  const std::string head = received_.substr(0, end + 2);
  received_.erase(0, end + 4);
  response.status = std::atoi(head.c_str() + head.find(' '));
  for (size_t at = head.find("\r\n") + 2; at < head.size();) {
    const size_t colon = head.find(':', at);
    const size_t line_end = head.find("\r\n", at);
    std::string name = head.substr(at, colon - at);
    std::transform(name.begin(), name.end(), name.begin(), ::tolower);
    response.headers[name] = head.substr(colon + 2, line_end - colon - 2);
    at = line_end + 2;
  }
  if (head_only_body || response.status == 100) {
    response.complete = true;
  } else if (response.headers.contains("content-length")) {
    const size_t length = std::stoul(response.headers["content-length"]);
    while (received_.size() < length && Read(deadline)) {
    }
    response.complete = received_.size() >= length;
    response.body = received_.substr(0, length);
    received_.erase(0, length);
  } else if (response.headers.contains("transfer-encoding")) {
    for (;;) {
      size_t line_end;
      while ((line_end = received_.find("\r\n")) == std::string::npos) {
        if (!Read(deadline)) return response;
      }
      const size_t size = std::strtoul(received_.c_str(), nullptr, 16);
      while (received_.size() < line_end + 2 + size + 2) {
        if (!Read(deadline)) return response;
      }
      response.body += received_.substr(line_end + 2, size);
      received_.erase(0, line_end + 2 + size + 2);
      if (size == 0) break;
    }
    response.complete = true;
  } else {
    while (Read(deadline)) {
    }
    response.complete = ended_;
    response.body.swap(received_);
  }
  return response;
}

bool RawClient::WaitForClose(Timeout timeout) {
  const auto deadline = Clock::now() + timeout;
  while (Read(deadline)) {
  }
  return ended_;
}

void RawClient::ShutdownWrite() { shutdown(fd_, SHUT_WR); }

void RawClient::Reset() {
  const linger hard{.l_onoff = 1, .l_linger = 0};
  setsockopt(fd_, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
  Close();
}

void RawClient::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

std::string GetRequest(const std::string& target, const std::string& headers) {
  return "GET " + target + " HTTP/1.1\r\nHost: localhost\r\n" + headers + "\r\n";
}

std::string PostRequest(const std::string& target,
                        const std::string& body,
                        const std::string& headers) {
  return "POST " + target + " HTTP/1.1\r\nHost: localhost\r\n" + headers +
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

RawResponse RoundTrip(uint16_t port, const std::string& request) {
  RawClient client(port);
  client.Send(request);
  return client.Receive();
}

}  // namespace paceline::router
