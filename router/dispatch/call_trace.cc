#include "router/dispatch/call_trace.h"

#include <utility>

#include "proto/support/trace.h"

namespace paceline::router {

CallTrace::CallTrace(SpanSink* sink, const std::string& client_traceparent)
    : traceparent_(client_traceparent) {
  if (sink == nullptr) return;
  trace_id_ = client_traceparent.empty() ? NewTraceId() : TraceIdOf(client_traceparent);
  if (!sink->Samples(trace_id_, client_traceparent)) return;
  sink_ = sink;
  root_id_ = NewSpanId();
  if (!client_traceparent.empty()) client_id_ = ParentIdOf(client_traceparent);
  traceparent_ = MakeTraceparent(trace_id_, root_id_, /*is_sampled=*/true);
}

std::string CallTrace::TraceparentOf(const std::string& span_id) const {
  return is_recorded() ? MakeTraceparent(trace_id_, span_id, /*is_sampled=*/true) : traceparent_;
}

void CallTrace::Add(const char* name,
                    int64_t start_ns,
                    int64_t end_ns,
                    std::string error,
                    std::vector<SpanAttribute> attributes,
                    std::string id) const {
  sink_->Add({.trace_id = trace_id_,
              .id = id.empty() ? NewSpanId() : std::move(id),
              .parent_id = root_id_,
              .name = name,
              .start_ns = start_ns,
              .end_ns = end_ns,
              .error = std::move(error),
              .attributes = std::move(attributes)});
}

void CallTrace::End(std::string name,
                    int64_t start_ns,
                    int64_t end_ns,
                    std::string error,
                    std::vector<SpanAttribute> attributes) const {
  sink_->Add({.trace_id = trace_id_,
              .id = root_id_,
              .parent_id = client_id_,
              .name = std::move(name),
              .is_request = true,
              .start_ns = start_ns,
              .end_ns = end_ns,
              .error = std::move(error),
              .attributes = std::move(attributes)});
}

}  // namespace paceline::router
