// A client's TCP connection as bytes, plain or under TLS. Owned by Connection, on its strand.
#ifndef PACELINE_ROUTER_HTTP_CLIENT_STREAM_H_
#define PACELINE_ROUTER_HTTP_CLIENT_STREAM_H_

#include <optional>
#include <utility>

#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/ssl/context.hpp"
#include "boost/asio/ssl/stream.hpp"

namespace paceline::router {

class ClientStream {
 public:
  using Socket = boost::asio::ip::tcp::socket;

  // `tls`: null for none; used by the constructor only.
  ClientStream(Socket socket, boost::asio::ssl::context* tls) : socket_(std::move(socket)) {
    if (tls != nullptr) tls_.emplace(socket_, *tls);
  }
  ClientStream(const ClientStream&) = delete;
  ClientStream& operator=(const ClientStream&) = delete;

  // From now on bytes go as they are. REQUIRES: nothing is being read or written.
  void DropTls() { tls_.reset(); }

  bool has_tls() const { return tls_.has_value(); }
  Socket& socket() { return socket_; }

  // REQUIRES: has_tls().
  template <typename Handler>
  void AsyncHandshake(Handler handler) {
    tls_->async_handshake(boost::asio::ssl::stream_base::server, std::move(handler));
  }
  // Says that no more comes, and waits for the client to say so too. REQUIRES: has_tls().
  template <typename Handler>
  void AsyncShutdown(Handler handler) {
    tls_->async_shutdown(std::move(handler));
  }

  template <typename Buffer, typename Handler>
  void AsyncReadSome(const Buffer& buffer, Handler handler) {
    if (tls_) return tls_->async_read_some(buffer, std::move(handler));
    socket_.async_read_some(buffer, std::move(handler));
  }
  template <typename Buffer, typename Handler>
  void AsyncWriteSome(const Buffer& buffer, Handler handler) {
    if (tls_) return tls_->async_write_some(buffer, std::move(handler));
    socket_.async_write_some(buffer, std::move(handler));
  }

 private:
  Socket socket_;
  std::optional<boost::asio::ssl::stream<Socket&>> tls_;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_HTTP_CLIENT_STREAM_H_
