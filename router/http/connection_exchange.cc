#include "router/http/connection_exchange.h"

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <utility>

#include "proto/support/clock.h"
#include "router/core/request_context.h"
#include "router/http/connection.h"

namespace paceline::router {
namespace {

std::string_view ReasonPhrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 409:
      return "Conflict";
    case 413:
      return "Content Too Large";
    case 414:
      return "URI Too Long";
    case 415:
      return "Unsupported Media Type";
    case 417:
      return "Expectation Failed";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 499:
      return "Client Closed Request";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return status < 500 ? "Error" : "Internal Server Error";
  }
}

std::string DateNow() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[40];
  return std::string(text, std::strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", &parts));
}

void AppendHeader(std::string_view name, std::string_view value, std::string* out) {
  out->append(name).append(": ").append(value).append("\r\n");
}

}  // namespace

ConnectionExchange::ConnectionExchange(std::shared_ptr<Connection> connection,
                                       const HttpRequest& request)
    : route_(request.route_label),
      tenant_class_(TenantClass(request.tenant)),
      request_id_(request.request_id),
      arrival_ns_(request.arrival_ns),
      is_head_request_(request.method == "HEAD"),
      is_http_1_0_(request.is_http_1_0),
      connection_(std::move(connection)),
      close_(!request.keep_alive) {}

void ConnectionExchange::Respond(HttpResponse response) {
  const std::lock_guard lock(mutex_);
  if (!connection_ || finished_) return;
  close_ |= response.close;
  AppendHead(response);
  if (!is_head_request_) pending_.append(response.body);
  finished_ = true;
  Wake();
}

void ConnectionExchange::StartStream(HttpResponse head) {
  const std::lock_guard lock(mutex_);
  if (!connection_ || finished_) return;
  close_ |= head.close || is_http_1_0_;
  is_stream_ = true;
  AppendHead(head);
  Wake();
}

void ConnectionExchange::Write(std::string_view bytes) {
  const std::lock_guard lock(mutex_);
  if (!connection_ || finished_) return;
  pending_.append(bytes);
  Wake();
}

void ConnectionExchange::Finish() {
  const std::lock_guard lock(mutex_);
  if (!connection_ || finished_) return;
  finished_ = true;
  Wake();
}

void ConnectionExchange::FinishFailed(int status) {
  const std::lock_guard lock(mutex_);
  if (!connection_ || finished_) return;
  close_ = true;
  status_ = status;
  finished_ = true;
  Wake();
}

int64_t ConnectionExchange::UnsentBytes() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int64_t>(pending_.size() + in_flight_);
}

void ConnectionExchange::SetObserver(std::shared_ptr<ExchangeObserver> observer) {
  const std::lock_guard lock(mutex_);
  if (connection_) observer_ = std::move(observer);
}

void ConnectionExchange::Take(std::string* out) {
  const std::lock_guard lock(mutex_);
  woken_ = false;
  out->append(pending_, 0, head_size_);
  const std::string_view payload = std::string_view(pending_).substr(head_size_);
  if (is_stream_ && !is_http_1_0_) {
    AppendChunk(payload, out);
  } else {
    out->append(payload);
  }
  pending_.clear();
  if (pending_.capacity() > kKeptBytes) pending_.shrink_to_fit();
  head_size_ = 0;
  in_flight_ = out->size();
}

void ConnectionExchange::Sent(size_t count) {
  const std::lock_guard lock(mutex_);
  in_flight_ -= std::min(in_flight_, count);
}

bool ConnectionExchange::finished() const {
  const std::lock_guard lock(mutex_);
  return finished_;
}

bool ConnectionExchange::IsComplete() const {
  const std::lock_guard lock(mutex_);
  return finished_ && ended_ && pending_.empty() && in_flight_ == 0;
}

bool ConnectionExchange::close() const {
  const std::lock_guard lock(mutex_);
  return close_;
}

std::shared_ptr<ExchangeObserver> ConnectionExchange::observer() const {
  const std::lock_guard lock(mutex_);
  return observer_;
}

HttpAccess ConnectionExchange::access() const {
  const std::lock_guard lock(mutex_);
  return HttpAccess{.route = route_,
                    .status = status_,
                    .tenant_class = tenant_class_,
                    .duration_ns = SteadyClock::Get().NowNs() - arrival_ns_};
}

void ConnectionExchange::Detach() {
  std::shared_ptr<Connection> connection;  // released without the lock
  std::shared_ptr<ExchangeObserver> observer;
  const std::lock_guard lock(mutex_);
  connection.swap(connection_);
  observer.swap(observer_);
}

void ConnectionExchange::Wake() {
  if (!std::exchange(woken_, true)) connection_->WakeWriter();
}

// Payload as one chunk, and the last chunk when the stream is finished.
void ConnectionExchange::AppendChunk(std::string_view payload, std::string* out) {
  if (!payload.empty()) {
    char size[20];
    std::snprintf(size, sizeof(size), "%zx\r\n", payload.size());
    out->append(size).append(payload).append("\r\n");
  }
  if (finished_ && !ended_) out->append("0\r\n\r\n");
  ended_ = finished_;
}

void ConnectionExchange::AppendHead(const HttpResponse& response) {
  status_ = response.status;
  ended_ = !is_stream_ || is_http_1_0_;
  std::string& out = pending_;
  out.append(is_http_1_0_ ? "HTTP/1.0 " : "HTTP/1.1 ").append(std::to_string(response.status));
  out.append(" ").append(ReasonPhrase(response.status)).append("\r\n");
  AppendHeader("Date", DateNow(), &out);
  AppendHeader("Content-Type", response.content_type, &out);
  if (!is_stream_) {
    AppendHeader("Content-Length", std::to_string(response.body.size()), &out);
  } else if (!is_http_1_0_) {
    AppendHeader("Transfer-Encoding", "chunked", &out);
  }
  if (!request_id_.empty()) AppendHeader("X-Request-Id", request_id_, &out);
  for (const auto& [name, value] : response.headers) AppendHeader(name, value, &out);
  if (close_ || connection_->draining()) {
    AppendHeader("Connection", "close", &out);
  } else if (is_http_1_0_) {
    AppendHeader("Connection", "keep-alive", &out);
  }
  out.append("\r\n");
  head_size_ = out.size();
}

}  // namespace paceline::router
