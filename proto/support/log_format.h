// What a log line says about the request that it is about, and how it is written. Any thread.
#ifndef PACELINE_PROTO_SUPPORT_LOG_FORMAT_H_
#define PACELINE_PROTO_SUPPORT_LOG_FORMAT_H_

#include <memory>
#include <string>
#include <string_view>

#include "spdlog/formatter.h"

namespace paceline {

// While it lives, what this thread logs is about that request: JSON lines have its request_id,
// trace_id and span_id, text lines end with " trace_id=…" (their messages name the request). The
// innermost counts.
class LogRequest {
 public:
  // The texts outlive it. `traceparent` is valid or empty.
  LogRequest(std::string_view request_id, std::string_view traceparent);
  ~LogRequest();
  LogRequest(const LogRequest&) = delete;
  LogRequest& operator=(const LogRequest&) = delete;

  std::string_view request_id() const { return request_id_; }
  std::string_view traceparent() const { return traceparent_; }

 private:
  const std::string_view request_id_;
  const std::string_view traceparent_;
  const LogRequest* const outer_;
};

// spdlog's patterns, and: %* the message as the inside of a JSON string, %? the request as JSON
// members with a comma before each, %~ the trace at the end of a text line.
std::unique_ptr<spdlog::formatter> MakeLogFormatter(const std::string& pattern);

// Whether InitLog was asked for JSON: then nothing else may be written to stderr.
bool LogsJson();

}  // namespace paceline

#endif  // PACELINE_PROTO_SUPPORT_LOG_FORMAT_H_
