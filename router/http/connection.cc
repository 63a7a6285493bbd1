#include "router/http/connection.h"

#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "boost/asio/post.hpp"
#include "boost/asio/ssl/error.hpp"
#include "openssl/sslerr.h"
#include "proto/support/clock.h"
#include "proto/support/log.h"
#include "proto/support/log_limit.h"

namespace paceline::router {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr size_t kInputBytes = 16 << 10;
constexpr size_t kMaxDiscardedBytes = 16 << 20;
constexpr char kUseTls[] =
    R"({"error":{"message":"This port speaks TLS: use https://","type":"invalid_request_error",)"
    R"("param":null,"code":"tls_required"}})";
constexpr char kContinue[] = "HTTP/1.1 100 Continue\r\n\r\n";

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

Connection::Connection(Socket socket,
                       asio::ssl::context* tls,
                       const HttpServer::Options& options,
                       HttpHandler* handler,
                       ConnectionSet* connections)
    : stream_(std::move(socket), tls),
      timer_(stream_.socket().get_executor()),
      options_(options),
      handler_(handler),
      connections_(connections),
      reader_(options.limits) {}

Connection::~Connection() { connections_->Remove(this); }

void Connection::Start() {
  asio::post(timer_.get_executor(), [self = shared_from_this()] {
    if (self->phase_ == Phase::kClosed) return;
    SetSocketOptions(self->stream_.socket(), self->options_.send_buffer_bytes);
    self->input_.resize(kInputBytes);
    if (self->stream_.has_tls()) {
      self->Enter(Phase::kHandshake);
      self->stream_.AsyncHandshake([self](const error_code& error) { self->OnHandshake(error); });
    } else {
      self->Enter(Phase::kIdle);
      self->ReadSome();
    }
  });
}

void Connection::CloseIfIdle() {
  asio::post(timer_.get_executor(), [self = shared_from_this()] {
    if (self->phase_ == Phase::kIdle) self->Close();
  });
}

void Connection::Drain() {
  draining_ = true;
  CloseIfIdle();
}

void Connection::Stop() {
  asio::post(timer_.get_executor(), [self = shared_from_this()] {
    if (self->phase_ != Phase::kAnswer) return self->Close();
    if (const auto observer = self->exchange_->observer()) observer->OnServerStop();
  });
}

void Connection::Abort() {
  asio::post(timer_.get_executor(), [self = shared_from_this()] { self->Close(); });
}

void Connection::WakeWriter() {
  asio::post(timer_.get_executor(), [self = shared_from_this()] { self->Flush(); });
}

void Connection::OnHandshake(const error_code& error) {
  if (phase_ == Phase::kClosed) return;
  if (!error) {
    Enter(Phase::kIdle);
    return ReadSome();
  }
  if (error.category() == asio::error::get_ssl_category()) {
    if (ERR_GET_REASON(error.value()) == SSL_R_HTTP_REQUEST) return RefusePlainRequest();
    static LogLimit limit;
    error_code ignored;
    const std::string peer = stream_.socket().remote_endpoint(ignored).address().to_string();
    if (limit.Take()) spdlog::info("HTTPS: handshake with {} failed: {}", peer, error.message());
  }
  Close();
}

// In plain text, which is what such a client understands.
void Connection::RefusePlainRequest() {
  stream_.DropTls();
  OpenExchange({.arrival_ns = SteadyClock::Get().NowNs()});
  exchange_->Respond({.status = 400, .body = kUseTls, .close = true});
  ReadSome();
}

void Connection::Enter(Phase phase) {
  if (phase_ == Phase::kClosed) return;
  phase_ = phase;
  connections_->SetIdle(this, phase == Phase::kIdle);
  const Clock::time_point now = Clock::now();
  switch (phase) {
    case Phase::kHandshake:
      return SetDeadline(now + options_.head_timeout);
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
  stream_.AsyncReadSome(asio::buffer(input_.data() + input_end_, input_.size() - input_end_),
                        [self = shared_from_this()](const error_code& error, size_t count) {
                          self->OnRead(error, count);
                        });
}

// With a full buffer of requests to come, only a reset can be noticed.
void Connection::AwaitError() {
  if (std::exchange(awaiting_error_, true)) return;
  stream_.socket().async_wait(Socket::wait_error,
                              [self = shared_from_this()](const error_code& error) {
                                self->awaiting_error_ = false;
                                if (!error) self->Close();
                              });
}

void Connection::OnRead(const error_code& error, size_t count) {
  reading_ = false;
  if (phase_ == Phase::kClosed) return;
  // Clients that end without TLS's own farewell are common, and lengths are checked anyway.
  if (error == asio::error::eof || error == asio::ssl::error::stream_truncated) {
    return OnInputEnd();
  }
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
  exchange_ = std::make_shared<ConnectionExchange>(shared_from_this(), request);
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
  request.tenant = reader_.head().tenant;
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
  stream_.AsyncWriteSome(asio::buffer(output_.data() + output_sent_, output_.size() - output_sent_),
                         [self = shared_from_this()](const error_code& error, size_t count) {
                           self->OnWritten(error, count);
                         });
}

void Connection::OnWritten(const error_code& error, size_t count) {
  writing_ = false;
  if (phase_ == Phase::kClosed) return;
  if (error) return Close();
  output_sent_ += count;
  const std::shared_ptr<ConnectionExchange> exchange = exchange_;
  if (exchange) exchange->Sent(count);
  if (output_sent_ < output_.size()) {
    WriteSome();
  } else {
    output_.clear();
    if (output_.capacity() > ConnectionExchange::kKeptBytes) output_.shrink_to_fit();
    output_sent_ = 0;
    if (phase_ == Phase::kAnswer) SetDeadline(Clock::time_point::max());
    Flush();
  }
  if (!exchange) return;
  if (const auto observer = exchange->observer()) observer->OnProgress();
}

void Connection::FinishAnswer() {
  const std::shared_ptr<ConnectionExchange> exchange = std::move(exchange_);
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
  const bool fast_enough = static_cast<double>(body_bytes_) >=
                           seconds * static_cast<double>(options_.min_body_bytes_per_second);
  if (!fast_enough || now >= body_start_ + options_.body_timeout) return Refuse(408);
  SetDeadline(std::min<Clock::time_point>(now + std::chrono::seconds(1),
                                          body_start_ + options_.body_timeout));
}

// Closing with unread input would reset the connection and take our last words with it.
void Connection::LingerAndClose() {
  if (!stream_.has_tls()) {
    error_code ignored;
    stream_.socket().shutdown(Socket::shutdown_send, ignored);
    if (input_ended_) return Close();
  } else {
    stream_.AsyncShutdown([self = shared_from_this()](const error_code&) { self->Close(); });
  }
  Enter(Phase::kLinger);
  ReadSome();
}

void Connection::Close() {
  if (phase_ == Phase::kClosed) return;
  phase_ = Phase::kClosed;
  error_code ignored;
  timer_.cancel();
  stream_.socket().close(ignored);
  const std::shared_ptr<ConnectionExchange> exchange = std::move(exchange_);
  exchange_ = nullptr;
  if (exchange) {
    const auto observer = exchange->observer();
    HttpAccess access = exchange->access();
    if (access.status < 400) access.status = 499;
    exchange->Detach();
    handler_->OnAnswered(access);
    if (observer) observer->OnDisconnect();
  }
  connections_->Remove(this);
}

}  // namespace paceline::router
