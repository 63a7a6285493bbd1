// W3C trace context, version 00 of the header `traceparent`, and ids of spans. Stateless; any
// thread.
#ifndef PACELINE_PROTO_SUPPORT_TRACE_H_
#define PACELINE_PROTO_SUPPORT_TRACE_H_

#include <cstdint>
#include <random>
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

// Parts of a valid traceparent.
inline std::string_view TraceIdOf(std::string_view traceparent) {
  return traceparent.substr(3, 32);
}
inline std::string_view ParentIdOf(std::string_view traceparent) {
  return traceparent.substr(36, 16);
}
// Whether the caller records its trace.
inline bool IsSampled(std::string_view traceparent) {
  const char digit = traceparent[54];
  return ((digit <= '9' ? digit - '0' : digit - 'a' + 10) & 1) != 0;
}

inline std::string MakeTraceparent(std::string_view trace_id,
                                   std::string_view span_id,
                                   bool is_sampled) {
  std::string text = "00-";
  text.append(trace_id).append("-").append(span_id).append(is_sampled ? "-01" : "-00");
  return text;
}

// 16 random hexadecimal digits, not all zero.
inline std::string NewSpanId() {
  static constexpr char kHex[] = "0123456789abcdef";
  thread_local std::mt19937_64 random(std::random_device{}() |
                                      static_cast<uint64_t>(std::random_device{}()) << 32);
  uint64_t bits = 0;
  while (bits == 0) bits = random();
  std::string id(16, '0');
  for (char& digit : id) {
    digit = kHex[bits & 15];
    bits >>= 4;
  }
  return id;
}
inline std::string NewTraceId() { return NewSpanId() + NewSpanId(); }

}  // namespace paceline

#endif  // PACELINE_PROTO_SUPPORT_TRACE_H_
