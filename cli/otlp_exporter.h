// Sends spans to an OpenTelemetry collector: OTLP over HTTP, protobuf. A bounded queue, and a
// thread that sends batches of it; a collector that is slow or away costs spans, never a request.
// Owned by the process; Start and destruction from one thread, the rest from any.
#ifndef PACELINE_CLI_OTLP_EXPORTER_H_
#define PACELINE_CLI_OTLP_EXPORTER_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/http_client.h"
#include "cli/otlp_options.h"
#include "proto/support/span.h"

namespace paceline::cli {

class OtlpExporter final : public SpanSink {
 public:
  struct Process {
    std::string service_name;   // unless the options say otherwise
    std::string instance_id;    // service.instance.id
    std::string metric_prefix;  // paceline_router, paceline_worker
  };

  OtlpExporter(OtlpOptions options, Process process);
  // Sends what waits, for a few seconds at most.
  ~OtlpExporter() override;
  OtlpExporter(const OtlpExporter&) = delete;
  OtlpExporter& operator=(const OtlpExporter&) = delete;

  bool Samples(std::string_view trace_id, std::string_view traceparent) const override;
  void Add(Span span) override;

  // <prefix>_trace_spans_total by outcome, for the metrics page.
  std::string MetricsText() const;

 private:
  void Loop();
  // The next spans to send, once there are enough or the delay is over; none: the end.
  std::vector<Span> Take();
  void Export(const std::vector<Span>& spans);
  std::string Encode(const std::vector<Span>& spans) const;
  // One attempt. Unavailable: another may succeed, after `retry_after_ms` if the server names a
  // time.
  absl::Status Post(const std::string& body, int64_t& rejected, int64_t& retry_after_ms);
  void WaitToRetry(int64_t ms);
  void Report(const absl::Status& status);

  const OtlpOptions options_;
  const Process process_;
  HttpClient client_;
  const int64_t unix_minus_steady_ns_;

  std::atomic<int64_t> exported_{0};
  std::atomic<int64_t> dropped_{0};  // the queue was full
  std::atomic<int64_t> failed_{0};   // the collector did not take them

  std::mutex mutex_;  // guards the next four
  std::condition_variable wake_;
  std::deque<Span> queue_;
  bool stop_ = false;
  bool done_ = false;  // all was sent, or given up

  bool was_failing_ = false;  // the thread's
  std::thread thread_;        // last: starts when everything else is there
};

// The process's exporter, or null when nothing asks for one. InvalidArgument: FindOtlpOptions'.
absl::StatusOr<std::unique_ptr<OtlpExporter>> StartOtlpExporter(const std::string& endpoint,
                                                                OtlpExporter::Process process);

}  // namespace paceline::cli

#endif  // PACELINE_CLI_OTLP_EXPORTER_H_
