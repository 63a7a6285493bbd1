// W3C trace context, version 00 of the header `traceparent`: passed on as it came, and its trace id
// in the log lines about a request. Stateless; any thread.
#ifndef PACELINE_PROTO_SUPPORT_TRACE_H_
#define PACELINE_PROTO_SUPPORT_TRACE_H_

#include <string>
#include <string_view>

namespace paceline {

// "00-<32 hex digits: trace id>-<16: parent id>-<2: flags>". Later versions begin the same, but may
// be longer; those are not passed on. An id of zeros only is none.
inline bool IsValidTraceparent(std::string_view value) {
  if (value.size() != 55 || value[2] != '-' || value[35] != '-' || value[52] != '-') return false;
  for (size_t i = 0; i < value.size(); ++i) {
    if (i == 2 || i == 35 || i == 52) continue;
    const bool is_hex =
        (value[i] >= '0' && value[i] <= '9') || (value[i] >= 'a' && value[i] <= 'f');
    if (!is_hex) return false;
  }
  const auto is_zero = [](std::string_view id) {
    return id.find_first_not_of('0') == std::string_view::npos;
  };
  return value.substr(0, 2) != "ff" && !is_zero(value.substr(3, 32)) &&
         !is_zero(value.substr(36, 16));
}

// What ends a log line about a request: " trace_id=<32 hex digits>", or nothing without a trace.
// REQUIRES: `traceparent` is valid or empty.
inline std::string TraceNote(std::string_view traceparent) {
  if (traceparent.empty()) return "";
  return std::string(" trace_id=").append(traceparent.substr(3, 32));
}

}  // namespace paceline

#endif  // PACELINE_PROTO_SUPPORT_TRACE_H_
