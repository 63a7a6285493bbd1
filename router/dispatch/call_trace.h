// The spans of one call: in the client's trace, or in one that begins here. Owned by CallState; the
// router's loop thread only.
#ifndef PACELINE_ROUTER_DISPATCH_CALL_TRACE_H_
#define PACELINE_ROUTER_DISPATCH_CALL_TRACE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "proto/support/span.h"

namespace paceline::router {

class CallTrace {
 public:
  // Records nothing.
  CallTrace() = default;
  // `sink` null: records nothing, and `client_traceparent` (valid or empty) is passed on as it is.
  CallTrace(SpanSink* sink, const std::string& client_traceparent);

  bool is_recorded() const { return sink_ != nullptr; }
  // What the log names; empty: there is no trace.
  const std::string& traceparent() const { return traceparent_; }
  // For a worker, whose spans are children of `span_id` (that of a later Add).
  std::string TraceparentOf(const std::string& span_id) const;

  // A part of the call. `id`: of NewSpanId. REQUIRES: is_recorded().
  void Add(const char* name,
           int64_t start_ns,
           int64_t end_ns,
           std::string error = "",
           std::vector<SpanAttribute> attributes = {},
           std::string id = "") const;
  // The call itself. REQUIRES: is_recorded().
  void End(std::string name,
           int64_t start_ns,
           int64_t end_ns,
           std::string error,
           std::vector<SpanAttribute> attributes) const;

 private:
  SpanSink* sink_ = nullptr;  // null: not recorded
  std::string traceparent_;
  std::string trace_id_;
  std::string root_id_;
  std::string client_id_;  // of the client's span; empty: none
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_DISPATCH_CALL_TRACE_H_
