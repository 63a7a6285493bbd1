// One client's TCP connection: reads requests one after another, hands them to the handler, writes
// the answers, and notices at once when the client goes away. Owned by its pending operations and
// by the exchange in progress; everything but the Exchange runs on its strand.
#ifndef PACELINE_ROUTER_HTTP_CONNECTION_H_
#define PACELINE_ROUTER_HTTP_CONNECTION_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "boost/asio/steady_timer.hpp"
#include "router/http/client_stream.h"
#include "router/http/connection_exchange.h"
#include "router/http/connection_set.h"
#include "router/http/http_server.h"
#include "router/http/message.h"
#include "router/http/request_reader.h"

namespace paceline::router {

class Connection final : public std::enable_shared_from_this<Connection> {
 public:
  using Socket = ClientStream::Socket;

  // `options`, `handler` and `connections` must outlive the connection. The socket's executor must
  // be a strand. `tls`: null for none; not kept.
  Connection(Socket socket,
             boost::asio::ssl::context* tls,
             const HttpServer::Options& options,
             HttpHandler* handler,
             ConnectionSet* connections);
  ~Connection();

  void Start();
  // The three ways to end it. Any thread.
  void CloseIfIdle();
  void Drain();  // after the answer in progress
  void Stop();   // ends the answer in progress
  void Abort();  // at once

  // For the exchange in progress, any thread: something waits to be written.
  void WakeWriter();
  bool draining() const { return draining_; }

 private:
  using Clock = std::chrono::steady_clock;
  enum class Phase { kHandshake, kIdle, kHead, kBody, kAnswer, kLinger, kClosed };

  void Enter(Phase phase);
  void OnHandshake(const boost::system::error_code& error);
  void RefusePlainRequest();
  // Input
  void ReadSome();
  void OnRead(const boost::system::error_code& error, size_t count);
  void AwaitError();
  std::string_view input() const {
    return {input_.data() + input_begin_, input_end_ - input_begin_};
  }
  void ProcessInput();
  bool ProcessHead();
  bool ProcessBody();
  void Dispatch(HttpRequest request);
  void OpenExchange(const HttpRequest& request);
  void Refuse(int status);
  void OnInputEnd();
  // Output
  void Flush();
  void WriteSome();
  void OnWritten(const boost::system::error_code& error, size_t count);
  void FinishAnswer();
  // Time and end
  void SetDeadline(Clock::time_point deadline);
  void ArmTimer();
  void OnDeadline();
  void LingerAndClose();
  void Close();

  ClientStream stream_;
  boost::asio::steady_timer timer_;
  const HttpServer::Options& options_;
  HttpHandler* const handler_;
  ConnectionSet* const connections_;

  Phase phase_ = Phase::kIdle;
  std::atomic<bool> draining_{false};  // written by any thread
  RequestReader reader_;
  std::vector<char> input_;
  size_t input_begin_ = 0;  // what is not yet read of it is [input_begin_, input_end_)
  size_t input_end_ = 0;
  bool reading_ = false;  // at input_end_, so that nothing may move
  bool awaiting_error_ = false;
  bool input_ended_ = false;
  size_t discarded_bytes_ = 0;  // while lingering
  int64_t arrival_ns_ = 0;
  Clock::time_point body_start_;
  size_t body_bytes_ = 0;

  std::shared_ptr<ConnectionExchange> exchange_;
  std::string output_;
  size_t output_sent_ = 0;
  bool writing_ = false;

  Clock::time_point deadline_ = Clock::time_point::max();
  Clock::time_point armed_ = Clock::time_point::max();
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_HTTP_CONNECTION_H_
