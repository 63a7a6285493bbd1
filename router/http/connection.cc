#include "router/http/connection.h"

#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <utility>

#include "boost/asio/post.hpp"
#include "proto/support/clock.h"

namespace paceline::router {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr size_t kInputBytes = 16 << 10;
constexpr size_t kMaxDiscardedBytes = 16 << 20;
constexpr size_t kKeptOutputBytes = 64 << 10;
constexpr char kContinue[] = "HTTP/1.1 100 Continue\r\n\r\n";

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

// A peer that vanishes without a word is noticed within 20 s.
void SetSocketOptions(asio::ip::tcp::socket& socket, int send_buffer_bytes) {
  error_code ignored;
  socket.set_option(asio::ip::tcp::no_delay(true), ignored);
  socket.set_option(asio::socket_base::keep_alive(true), ignored);
  socket.set_option(asio::socket_base::send_buffer_size(send_buffer_bytes), ignored);
  const auto set = [&](int option, int value) {
    setsockopt(socket.native_handle(), IPPROTO_TCP, option, &value, sizeof(value));
  };
  set(TCP_USER_TIMEOUT, 18'000);
  set(TCP_KEEPIDLE, 9);
  set(TCP_KEEPINTVL, 3);
  set(TCP_KEEPCNT, 3);
}

}  // namespace

// ---- ConnectionSet -----------------------------------------------------------------------------

void ConnectionSet::Add(const std::shared_ptr<Connection>& connection) {
  const std::lock_guard lock(mutex_);
  entries_[connection.get()].connection = connection;
}

void ConnectionSet::Remove(const Connection* connection) {
  const std::lock_guard lock(mutex_);
  const auto it = entries_.find(connection);
  if (it == entries_.end()) return;
  if (it->second.is_idle) idle_.erase(it->second.idle);
  entries_.erase(it);
  if (entries_.empty()) emptied_.notify_all();
}

void ConnectionSet::SetIdle(const Connection* connection, bool idle) {
  const std::lock_guard lock(mutex_);
  const auto it = entries_.find(connection);
  if (it == entries_.end() || it->second.is_idle == idle) return;
  it->second.is_idle = idle;
  if (idle) {
    it->second.idle = idle_.insert(idle_.end(), connection);
  } else {
    idle_.erase(it->second.idle);
  }
}

std::shared_ptr<Connection> ConnectionSet::TakeOldestIdle() {
  const std::lock_guard lock(mutex_);
  if (idle_.empty()) return nullptr;
  Entry& entry = entries_.at(idle_.front());
  idle_.pop_front();
  entry.is_idle = false;
  return entry.connection.lock();
}

std::vector<std::shared_ptr<Connection>> ConnectionSet::All() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Connection>> all;
  for (const auto& [key, entry] : entries_) {
    if (auto connection = entry.connection.lock()) all.push_back(std::move(connection));
  }
  return all;
}

size_t ConnectionSet::size() const {
  const std::lock_guard lock(mutex_);
  return entries_.size();
}

bool ConnectionSet::WaitUntilEmpty(std::chrono::nanoseconds timeout) const {
  std::unique_lock lock(mutex_);
  return emptied_.wait_for(lock, timeout, [this] { return entries_.empty(); });
}

// ---- The exchange ------------------------------------------------------------------------------

// What was handed in for one answer and not yet taken by the connection. Any thread.
class Connection::ExchangeState final : public Exchange {
 public:
  ExchangeState(std::shared_ptr<Connection> connection, const HttpRequest& request)
      : connection_(std::move(connection)),
        route_(request.route_label),
        request_id_(request.request_id),
        arrival_ns_(request.arrival_ns),
        is_head_request_(request.method == "HEAD"),
        is_http_1_0_(request.is_http_1_0),
        close_(!request.keep_alive) {}

  void Respond(HttpResponse response) override {
    const std::lock_guard lock(mutex_);
    if (!connection_ || finished_) return;
    close_ |= response.close;
    AppendHead(response, /*is_stream=*/false);
    if (!is_head_request_) pending_.append(response.body);
    finished_ = true;
    Schedule();
  }

  void StartStream(HttpResponse head) override {
    const std::lock_guard lock(mutex_);
    if (!connection_ || finished_) return;
    close_ |= head.close || is_http_1_0_;
    is_stream_ = true;
    AppendHead(head, /*is_stream=*/true);
    head_size_ = pending_.size();
    Schedule();
  }

  void Write(std::string_view bytes) override {
    const std::lock_guard lock(mutex_);
    if (!connection_ || finished_) return;
    pending_.append(bytes);
    Schedule();
  }

  void Finish(bool close) override {
    const std::lock_guard lock(mutex_);
    if (!connection_ || finished_) return;
    close_ |= close;
    finished_ = true;
    Schedule();
  }

  int64_t UnsentBytes() const override {
    const std::lock_guard lock(mutex_);
    return static_cast<int64_t>(pending_.size() + in_flight_);
  }

  void SetObserver(std::shared_ptr<ExchangeObserver> observer) override {
    const std::lock_guard lock(mutex_);
    if (connection_) observer_ = std::move(observer);
  }

  // ---- For the connection, on its strand.
  // Moves what waits to `out`, ready for the wire.
  void Take(std::string* out) {
    const std::lock_guard lock(mutex_);
    scheduled_ = false;
    out->append(pending_, 0, head_size_);
    const std::string_view payload = std::string_view(pending_).substr(head_size_);
    if (is_stream_ && !is_http_1_0_) {
      AppendChunk(payload, out);
    } else {
      out->append(payload);
    }
    pending_.clear();
    if (pending_.capacity() > kKeptOutputBytes) pending_.shrink_to_fit();
    head_size_ = 0;
    in_flight_ = out->size();
  }
  void Sent(size_t count) {
    const std::lock_guard lock(mutex_);
    in_flight_ -= std::min(in_flight_, count);
  }
  bool finished() const {
    const std::lock_guard lock(mutex_);
    return finished_;
  }
  // Everything was handed over and sent.
  bool IsComplete() const {
    const std::lock_guard lock(mutex_);
    return finished_ && pending_.empty() && in_flight_ == 0 && ended_;
  }
  bool close() const {
    const std::lock_guard lock(mutex_);
    return close_;
  }
  std::shared_ptr<ExchangeObserver> observer() const {
    const std::lock_guard lock(mutex_);
    return observer_;
  }
  HttpAccess access() const {
    const std::lock_guard lock(mutex_);
    return HttpAccess{.route = route_,
                      .status = status_,
                      .duration_ns = SteadyClock::Get().NowNs() - arrival_ns_};
  }
  // Cuts the ties to the connection; from here on everything is dropped.
  void Detach() {
    std::shared_ptr<Connection> connection;  // released without the lock
    std::shared_ptr<ExchangeObserver> observer;
    const std::lock_guard lock(mutex_);
    connection.swap(connection_);
    observer.swap(observer_);
  }

 private:
  void Schedule() {
    if (std::exchange(scheduled_, true)) return;
    asio::post(connection_->socket_.get_executor(),
               [connection = connection_] { connection->Flush(); });
  }

  // Payload as one chunk, and the last chunk when the stream is finished.
  void AppendChunk(std::string_view payload, std::string* out) {
    if (!payload.empty()) {
      char size[20];
      std::snprintf(size, sizeof(size), "%zx\r\n", payload.size());
      out->append(size).append(payload).append("\r\n");
    }
    if (finished_ && !ended_) out->append("0\r\n\r\n");
    ended_ = finished_;
  }

  void AppendHead(const HttpResponse& response, bool is_stream) {
    status_ = response.status;
    ended_ = !is_stream || is_http_1_0_;
    std::string& out = pending_;
    out.append(is_http_1_0_ ? "HTTP/1.0 " : "HTTP/1.1 ").append(std::to_string(response.status));
    out.append(" ").append(ReasonPhrase(response.status)).append("\r\n");
    AppendHeader("Date", DateNow(), &out);
    AppendHeader("Content-Type", response.content_type, &out);
    if (!is_stream) {
      AppendHeader("Content-Length", std::to_string(response.body.size()), &out);
    } else if (!is_http_1_0_) {
      AppendHeader("Transfer-Encoding", "chunked", &out);
    }
    if (!request_id_.empty()) AppendHeader("X-Request-Id", request_id_, &out);
    for (const auto& [name, value] : response.headers) AppendHeader(name, value, &out);
    if (close_ || connection_->draining_) {
      AppendHeader("Connection", "close", &out);
    } else if (is_http_1_0_) {
      AppendHeader("Connection", "keep-alive", &out);
    }
    out.append("\r\n");
  }

  mutable std::mutex mutex_;  // guards what is not const
  std::shared_ptr<Connection> connection_;
  std::shared_ptr<ExchangeObserver> observer_;
  const std::string_view route_;
  const std::string request_id_;
  const int64_t arrival_ns_;
  const bool is_head_request_;
  const bool is_http_1_0_;
  int status_ = 0;
  std::string pending_;    // a head of head_size_ bytes, then payload
  size_t head_size_ = 0;
  size_t in_flight_ = 0;
  bool is_stream_ = false;
  bool ended_ = false;     // the last chunk was taken, or none is needed
  bool finished_ = false;
  bool close_;
  bool scheduled_ = false;
};

// ---- Connection --------------------------------------------------------------------------------

Connection::Connection(Socket socket,
                       const HttpServer::Options& options,
                       HttpHandler* handler,
                       ConnectionSet* connections)
    : socket_(std::move(socket)),
      timer_(socket_.get_executor()),
      options_(options),
      handler_(handler),
      connections_(connections),
      reader_(options.limits) {}

Connection::~Connection() { connections_->Remove(this); }

void Connection::Start() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    if (self->phase_ == Phase::kClosed) return;
    SetSocketOptions(self->socket_, self->options_.send_buffer_bytes);
    self->input_.resize(kInputBytes);
    self->Enter(Phase::kIdle);
    self->ReadSome();
  });
}

void Connection::CloseIfIdle() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    if (self->phase_ == Phase::kIdle) self->Close();
  });
}

void Connection::Drain() {
  draining_ = true;
  CloseIfIdle();
}

void Connection::Stop() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    if (self->phase_ != Phase::kAnswer) return self->Close();
    if (const auto observer = self->exchange_->observer()) observer->OnServerStop();
  });
}

void Connection::Abort() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] { self->Close(); });
}

void Connection::Enter(Phase phase) {
  if (phase_ == Phase::kClosed) return;
  phase_ = phase;
  connections_->SetIdle(this, phase == Phase::kIdle);
  const Clock::time_point now = Clock::now();
  switch (phase) {
    case Phase::kIdle:
      return SetDeadline(now + options_.idle_timeout);
    case Phase::kHead:
      arrival_ns_ = SteadyClock::Get().NowNs();
      return SetDeadline(now + options_.head_timeout);
    case Phase::kBody:
      body_start_ = now;
      body_bytes_ = 0;
      return SetDeadline(now + std::min(options_.body_grace, options_.body_timeout));
    case Phase::kLinger:
      return SetDeadline(now + options_.linger_timeout);
    default:
      return SetDeadline(Clock::time_point::max());
  }
}

// ---- Input

// Reads whenever there is room: that is also how a client's leaving is noticed.
void Connection::ReadSome() {
  if (reading_ || input_ended_ || phase_ == Phase::kClosed) return;
  if (phase_ == Phase::kLinger) input_end_ = input_begin_;
  std::memmove(input_.data(), input_.data() + input_begin_, input_end_ - input_begin_);
  input_end_ -= std::exchange(input_begin_, 0);
  if (input_end_ == input_.size()) return AwaitError();
  reading_ = true;
  socket_.async_read_some(asio::buffer(input_.data() + input_end_, input_.size() - input_end_),
                          [self = shared_from_this()](const error_code& error, size_t count) {
                            self->OnRead(error, count);
                          });
}

// With a full buffer of requests to come, only a reset can be noticed.
void Connection::AwaitError() {
  if (std::exchange(awaiting_error_, true)) return;
  socket_.async_wait(Socket::wait_error, [self = shared_from_this()](const error_code& error) {
    self->awaiting_error_ = false;
    if (!error) self->Close();
  });
}

void Connection::OnRead(const error_code& error, size_t count) {
  reading_ = false;
  if (phase_ == Phase::kClosed) return;
  if (error == asio::error::eof) return OnInputEnd();
  if (error) return Close();
  if (phase_ == Phase::kLinger) {
    discarded_bytes_ += count;
    if (discarded_bytes_ > kMaxDiscardedBytes) return Close();
  } else {
    input_end_ += count;
    ProcessInput();
  }
  ReadSome();
}

// The client will send no more. That is a cancellation while an answer is being made; one that is
// already on its way is still delivered.
void Connection::OnInputEnd() {
  input_ended_ = true;
  switch (phase_) {
    case Phase::kHead:
    case Phase::kBody:
      return Refuse(400);
    case Phase::kAnswer:
      if (!exchange_->finished()) Close();
      return;
    default:
      return Close();
  }
}

void Connection::ProcessInput() {
  bool proceeds = true;
  while (proceeds && !input().empty()) {
    switch (phase_) {
      case Phase::kIdle:
        Enter(Phase::kHead);
        break;
      case Phase::kHead:
        proceeds = ProcessHead();
        break;
      case Phase::kBody:
        proceeds = ProcessBody();
        break;
      default:
        proceeds = false;
    }
  }
}

// These return whether to look at the input again.
bool Connection::ProcessHead() {
  input_begin_ += reader_.Feed(input());
  if (reader_.state() == RequestReader::State::kError) return Refuse(reader_.error_status()), false;
  if (reader_.state() != RequestReader::State::kHeadDone) return false;

  HttpRequest& head = reader_.head();
  head.arrival_ns = arrival_ns_;
  if (auto response = handler_->Admit(head)) {
    response->close |= head.has_body;
    OpenExchange(head);
    if (!head.has_body) reader_.Take();
    exchange_->Respond(std::move(*response));
    return false;
  }
  reader_.ReadBody();
  if (reader_.state() == RequestReader::State::kDone) return Dispatch(reader_.Take()), false;
  if (head.expects_continue && input().empty() && !writing_) {
    output_ = kContinue;
    WriteSome();
  }
  Enter(Phase::kBody);
  return true;
}

bool Connection::ProcessBody() {
  const size_t count = reader_.Feed(input());
  input_begin_ += count;
  body_bytes_ += count;
  if (reader_.state() == RequestReader::State::kError) return Refuse(reader_.error_status()), false;
  if (reader_.state() == RequestReader::State::kDone) return Dispatch(reader_.Take()), false;
  // A chunk header that does not fit the buffer.
  if (count == 0 && input().size() == input_.size()) Refuse(400);
  return false;
}

void Connection::OpenExchange(const HttpRequest& request) {
  Enter(Phase::kAnswer);
  exchange_ = std::make_shared<ExchangeState>(shared_from_this(), request);
}

void Connection::Dispatch(HttpRequest request) {
  OpenExchange(request);
  handler_->Handle(std::move(request), exchange_);
}

void Connection::Refuse(int status) {
  HttpRequest request;
  request.arrival_ns = arrival_ns_;
  request.request_id = reader_.head().request_id;
  request.route_label = reader_.head().route_label;
  OpenExchange(request);
  HttpResponse response = handler_->Refuse(status);
  response.close = true;
  exchange_->Respond(std::move(response));
}

// ---- Output

void Connection::Flush() {
  if (writing_ || !exchange_ || phase_ == Phase::kClosed) return;
  exchange_->Take(&output_);
  if (!output_.empty()) return WriteSome();
  if (exchange_->IsComplete()) FinishAnswer();
}

void Connection::WriteSome() {
  writing_ = true;
  if (phase_ == Phase::kAnswer) SetDeadline(Clock::now() + options_.write_timeout);
  socket_.async_write_some(
      asio::buffer(output_.data() + output_sent_, output_.size() - output_sent_),
      [self = shared_from_this()](const error_code& error, size_t count) {
        self->OnWritten(error, count);
      });
}

void Connection::OnWritten(const error_code& error, size_t count) {
  writing_ = false;
  if (phase_ == Phase::kClosed) return;
  if (error) return Close();
  output_sent_ += count;
  const std::shared_ptr<ExchangeState> exchange = exchange_;
  if (exchange) exchange->Sent(count);
  if (output_sent_ < output_.size()) {
    WriteSome();
  } else {
    output_.clear();
    if (output_.capacity() > kKeptOutputBytes) output_.shrink_to_fit();
    output_sent_ = 0;
    if (phase_ == Phase::kAnswer) SetDeadline(Clock::time_point::max());
    Flush();
  }
  if (!exchange) return;
  if (const auto observer = exchange->observer()) observer->OnProgress();
}

void Connection::FinishAnswer() {
  const std::shared_ptr<ExchangeState> exchange = std::move(exchange_);
  exchange_ = nullptr;
  handler_->OnAnswered(exchange->access());
  const bool close = exchange->close() || draining_ || input_ended_;
  exchange->Detach();
  if (close) return LingerAndClose();
  Enter(Phase::kIdle);
  ProcessInput();
  ReadSome();
}

// ---- Time and end

void Connection::SetDeadline(Clock::time_point deadline) {
  deadline_ = deadline;
  if (deadline_ < armed_) ArmTimer();
}

// Deadlines mostly move further away, so the timer is left to run and looks again when it fires.
void Connection::ArmTimer() {
  armed_ = deadline_;
  timer_.expires_at(armed_);
  timer_.async_wait([self = shared_from_this()](const error_code& error) {
    if (error || self->phase_ == Phase::kClosed) return;
    self->armed_ = Clock::time_point::max();
    if (Clock::now() >= self->deadline_) {
      self->OnDeadline();
    } else if (self->deadline_ != Clock::time_point::max()) {
      self->ArmTimer();
    }
  });
}

void Connection::OnDeadline() {
  deadline_ = Clock::time_point::max();
  if (phase_ == Phase::kHead) return Refuse(408);
  if (phase_ != Phase::kBody) return Close();
  const auto now = Clock::now();
  const double seconds = std::chrono::duration<double>(now - body_start_).count();
  const bool fast_enough =
      static_cast<double>(body_bytes_) >=
      seconds * static_cast<double>(options_.min_body_bytes_per_second);
  if (!fast_enough || now >= body_start_ + options_.body_timeout) return Refuse(408);
  SetDeadline(std::min<Clock::time_point>(now + std::chrono::seconds(1),
                                          body_start_ + options_.body_timeout));
}

// Closing with unread input would reset the connection and take our last words with it.
void Connection::LingerAndClose() {
  error_code ignored;
  socket_.shutdown(Socket::shutdown_send, ignored);
  if (input_ended_) return Close();
  Enter(Phase::kLinger);
  ReadSome();
}

void Connection::Close() {
  if (phase_ == Phase::kClosed) return;
  phase_ = Phase::kClosed;
  error_code ignored;
  timer_.cancel();
  socket_.close(ignored);
  const std::shared_ptr<ExchangeState> exchange = std::move(exchange_);
  exchange_ = nullptr;
  if (exchange) {
    const auto observer = exchange->observer();
    HttpAccess access = exchange->access();
    if (access.status == 0) access.status = 499;
    exchange->Detach();
    handler_->OnAnswered(access);
    if (observer) observer->OnDisconnect();
  }
  connections_->Remove(this);
}

}  // namespace paceline::router
