// A small HTTP/1.1 server for one listening address: limits first, then a handler. Owned by the
// process; Start and Stop from one thread.
#ifndef PACELINE_ROUTER_HTTP_HTTP_SERVER_H_
#define PACELINE_ROUTER_HTTP_HTTP_SERVER_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "proto/support/tls.h"
#include "router/http/message.h"
#include "router/http/request_reader.h"

namespace paceline::router {

class HttpServer {
 public:
  using Milliseconds = std::chrono::milliseconds;

  struct Options {
    std::string host = "127.0.0.1";  // an address; 0.0.0.0 or :: for all
    uint16_t port = 0;               // 0: a free one
    int num_threads = 2;
    size_t max_connections = 1024;
    ReaderLimits limits;
    Milliseconds head_timeout{10'000};   // first byte to end of head
    Milliseconds idle_timeout{60'000};   // without a request
    Milliseconds body_grace{10'000};     // after that min_body_rate applies
    Milliseconds body_timeout{120'000};  // for the whole body
    int64_t min_body_bytes_per_second = 1024;
    Milliseconds write_timeout{30'000};  // without any progress
    Milliseconds linger_timeout{2'000};  // for the client to read an error before the close
    int send_buffer_bytes = 128 << 10;   // kernel's; what is beyond counts as unsent
    const TlsSource* tls = nullptr;      // null: plain text; must outlive the server
    bool asks_clients = false;           // for a certificate, where `tls` has authorities
  };

  // `handler` must outlive the server.
  HttpServer(Options options, HttpHandler* handler);
  // Stops at once.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Binds, listens and serves. Errors name the address. At most once.
  absl::Status Start();
  // The port that it listens on. REQUIRES: started.
  uint16_t port() const;
  // Accepts no more, lets answers in progress end within `grace`, then ends streams with an error
  // event and closes everything.
  void Stop(Milliseconds grace);

  size_t num_connections() const;

 private:
  struct Internals;

  const Options options_;
  std::unique_ptr<Internals> internals_;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_HTTP_HTTP_SERVER_H_
