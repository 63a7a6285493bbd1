// One completions or chat request over HTTP: starts a call per prompt, and turns their events into
// one JSON answer or one event stream. Owned by its calls' sinks and by the exchange; thread-safe.
#ifndef PACELINE_ROUTER_HTTP_INFERENCE_EXCHANGE_H_
#define PACELINE_ROUTER_HTTP_INFERENCE_EXCHANGE_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "router/core/call.h"
#include "router/core/chunk_collector.h"
#include "router/http/message.h"
#include "router/openai/requests.h"
#include "router/openai/responses.h"

namespace paceline::router {

struct CallContext {
  std::string tenant;
  std::string traceparent;
  int64_t deadline_ns = 0;
};

class InferenceExchange final : public ExchangeObserver,
                                public std::enable_shared_from_this<InferenceExchange> {
 public:
  // Answers `request` through `exchange`. `request_id` is the one to show. Returns at once.
  static void Run(Service* service,
                  InferenceRequest request,
                  const CallContext& context,
                  std::string request_id,
                  std::shared_ptr<Exchange> exchange);

  // Use Run.
  InferenceExchange(const InferenceRequest& request,
                    std::string request_id,
                    std::shared_ptr<Exchange> exchange);

  void OnDisconnect() override;
  void OnProgress() override;
  void OnServerStop() override;

 private:
  class Sink;

  void Start(Service* service, InferenceRequest request, const CallContext& context);
  void OnChunk(int32_t prompt, v1::GenerateChunk chunk);
  void OnDone(int32_t prompt, const v1::Usage& usage);
  void OnError(const ApiError& error);
  void StartStream();
  void SendAnswer();
  void CancelAll();
  void ReportUnsentBytes(bool to_new_call = false);

  const ResponseShape shape_;
  const ResponseHeader header_;
  const bool stream_;
  const std::shared_ptr<Exchange> exchange_;

  std::mutex mutex_;  // guards everything up to the next mutex
  std::vector<std::shared_ptr<CallHandle>> handles_;
  bool ended_ = false;  // the answer is complete, or nobody wants it
  bool stream_started_ = false;
  int32_t num_done_ = 0;
  std::vector<v1::Usage> usage_;            // by prompt
  StreamWriter writer_;                     // streams only
  std::vector<ChunkCollector> collectors_;  // by prompt; whole answers only

  std::mutex report_mutex_;  // taken before mutex_; guards the one below
  int64_t reported_bytes_ = 0;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_HTTP_INFERENCE_EXCHANGE_H_
