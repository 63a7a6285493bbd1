#include "router/http/http_server.h"

#include <csignal>
#include <thread>
#include <utility>
#include <vector>

#include "boost/asio/io_context.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/post.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/asio/strand.hpp"
#include "proto/support/log.h"
#include "router/http/connection.h"

namespace paceline::router {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr auto kAcceptRetry = std::chrono::milliseconds(50);
constexpr auto kLastWords = std::chrono::milliseconds(1'000);

}  // namespace

struct HttpServer::Internals {
  Internals(const Options& options, HttpHandler* handler)
      : options(options),
        handler(handler),
        loops(options.num_threads),
        acceptor(asio::make_strand(loops[0].io)),
        accept_timer(acceptor.get_executor()) {}

  absl::Status Listen();
  void Accept();
  void OnAccept(const error_code& error, tcp::socket socket);
  void CloseAcceptor();
  asio::ssl::context* TlsContext();

  const Options& options;
  HttpHandler* const handler;
  ConnectionSet connections;  // outlives loops, whose handlers hold connections
  // A connection stays with one thread: threads that share an io_context wake each other up
  // for every event.
  struct Loop {
    asio::io_context io{1};
    std::thread thread;
  };
  std::vector<Loop> loops;
  size_t next_loop = 0;  // for the next connection
  tcp::acceptor acceptor;
  asio::steady_timer accept_timer;
  uint16_t port = 0;
  bool stopped = false;
  // Of the newest connection; the acceptor's strand.
  std::shared_ptr<const TlsMaterial> tls_material;
  std::unique_ptr<asio::ssl::context> tls_context;
};

absl::Status HttpServer::Internals::Listen() {
  const auto fail = [this](const error_code& error) {
    return absl::UnavailableError("HTTP address " + options.host + ":" +
                                  std::to_string(options.port) + ": " + error.message());
  };
  error_code error;
  const std::string host = options.host == "localhost" ? "127.0.0.1" : options.host;
  const auto address = asio::ip::make_address(host, error);
  if (error) return absl::InvalidArgumentError("HTTP host is not an IP address: " + options.host);
  const tcp::endpoint endpoint(address, options.port);
  if (acceptor.open(endpoint.protocol(), error)) return fail(error);
  if (acceptor.set_option(asio::socket_base::reuse_address(true), error)) return fail(error);
  if (acceptor.bind(endpoint, error)) return fail(error);
  if (acceptor.listen(asio::socket_base::max_listen_connections, error)) return fail(error);
  const tcp::endpoint bound = acceptor.local_endpoint(error);
  if (error) return fail(error);
  port = bound.port();
  return absl::OkStatus();
}

void HttpServer::Internals::Accept() {
  next_loop = (next_loop + 1) % loops.size();
  acceptor.async_accept(
      asio::make_strand(loops[next_loop].io),
      [this](const error_code& error, tcp::socket socket) { OnAccept(error, std::move(socket)); });
}

// Over the cap, whoever has been idle longest makes room; when nobody is idle the newcomer goes.
void HttpServer::Internals::OnAccept(const error_code& error, tcp::socket socket) {
  if (!acceptor.is_open()) return;
  if (error) {
    if (error != asio::error::connection_aborted) {  // out of descriptors, most likely
      spdlog::warn("HTTP accept: {}", error.message());
      accept_timer.expires_after(kAcceptRetry);
      accept_timer.async_wait([this](const error_code& cancelled) {
        if (!cancelled && acceptor.is_open()) Accept();
      });
      return;
    }
    return Accept();
  }
  std::shared_ptr<Connection> oldest;
  const bool is_full = connections.num_staying() >= options.max_connections;
  if (is_full) oldest = connections.TakeOldestIdle();
  if (oldest) oldest->CloseIfIdle();
  if (!is_full || oldest) {
    auto connection = std::make_shared<Connection>(
        std::move(socket), TlsContext(), options, handler, &connections);
    connections.Add(connection);
    connection->Start();
  }
  Accept();
}

// What the material is by now; null without TLS. Connections that are there keep theirs.
asio::ssl::context* HttpServer::Internals::TlsContext() {
  if (options.tls == nullptr) return nullptr;
  if (auto material = options.tls->Get(); material != tls_material) {
    tls_context =
        std::make_unique<asio::ssl::context>(NewServerContext(*material, options.asks_clients));
    tls_material = std::move(material);
  }
  return tls_context.get();
}

void HttpServer::Internals::CloseAcceptor() {
  asio::post(acceptor.get_executor(), [this] {
    error_code ignored;
    acceptor.close(ignored);
    accept_timer.cancel();
  });
}

HttpServer::HttpServer(Options options, HttpHandler* handler)
    : options_(std::move(options)), internals_(std::make_unique<Internals>(options_, handler)) {}

HttpServer::~HttpServer() { Stop(Milliseconds(0)); }

absl::Status HttpServer::Start() {
  std::signal(SIGPIPE, SIG_IGN);
  if (absl::Status status = internals_->Listen(); !status.ok()) return status;
  asio::post(internals_->acceptor.get_executor(), [this] { internals_->Accept(); });
  for (Internals::Loop& loop : internals_->loops) {
    loop.thread = std::thread([&io = loop.io] {
      const auto work = asio::make_work_guard(io);
      io.run();
    });
  }
  return absl::OkStatus();
}

uint16_t HttpServer::port() const { return internals_->port; }

size_t HttpServer::num_connections() const { return internals_->connections.size(); }

void HttpServer::Stop(Milliseconds grace) {
  if (std::exchange(internals_->stopped, true) || !internals_->loops[0].thread.joinable()) return;
  ConnectionSet& connections = internals_->connections;
  internals_->CloseAcceptor();
  for (const auto& connection : connections.All()) connection->Drain();
  if (!connections.WaitUntilEmpty(grace)) {
    for (const auto& connection : connections.All()) connection->Stop();
    connections.WaitUntilEmpty(kLastWords);
  }
  // One that was just accepted may still join the set.
  do {
    for (const auto& connection : connections.All()) connection->Abort();
  } while (!connections.WaitUntilEmpty(Milliseconds(20)));
  for (Internals::Loop& loop : internals_->loops) loop.io.stop();
  for (Internals::Loop& loop : internals_->loops) loop.thread.join();
}

}  // namespace paceline::router
