// The answer to one request on its way to the connection: heads and chunks are made here, what the
// connection has not taken yet waits here. Owned by the connection and by whoever answers; any
// thread, but for the second half.
#ifndef PACELINE_ROUTER_HTTP_CONNECTION_EXCHANGE_H_
#define PACELINE_ROUTER_HTTP_CONNECTION_EXCHANGE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "router/http/message.h"

namespace paceline::router {

class Connection;

class ConnectionExchange final : public Exchange {
 public:
  // Buffers that grew beyond this are given back when they are empty.
  static constexpr size_t kKeptBytes = 64 << 10;

  // Both hold each other until Detach.
  ConnectionExchange(std::shared_ptr<Connection> connection, const HttpRequest& request);

  void Respond(HttpResponse response) override;
  void StartStream(HttpResponse head) override;
  void Write(std::string_view bytes) override;
  void Finish() override;
  void FinishFailed(int status) override;
  int64_t UnsentBytes() const override;
  void SetObserver(std::shared_ptr<ExchangeObserver> observer) override;

  // ---- For the connection, on its strand.
  // Moves what waits to `out`, as it goes on the wire. REQUIRES: out is empty.
  void Take(std::string* out);
  // So many bytes of what was taken are with the kernel.
  void Sent(size_t count);
  // Nothing more will be handed in.
  bool finished() const;
  // Finished, and all of it sent.
  bool IsComplete() const;
  bool close() const;
  std::shared_ptr<ExchangeObserver> observer() const;
  HttpAccess access() const;
  // Cuts the ties to the connection and the observer; from here on everything is dropped.
  void Detach();

 private:
  // All with mutex_ held.
  void Wake();
  void AppendChunk(std::string_view payload, std::string* out);
  void AppendHead(const HttpResponse& response);

  const std::string_view route_;
  const std::string_view tenant_class_;
  const std::string request_id_;
  const int64_t arrival_ns_;
  const bool is_head_request_;
  const bool is_http_1_0_;

  mutable std::mutex mutex_;  // guards everything below
  std::shared_ptr<Connection> connection_;
  std::shared_ptr<ExchangeObserver> observer_;
  int status_ = 0;
  std::string pending_;  // a head of head_size_ bytes, then payload
  size_t head_size_ = 0;
  size_t in_flight_ = 0;  // taken, not sent
  bool is_stream_ = false;
  bool ended_ = false;  // the last chunk was taken, or none is needed
  bool finished_ = false;
  bool close_;
  bool woken_ = false;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_HTTP_CONNECTION_EXCHANGE_H_
