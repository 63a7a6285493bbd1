// A finished span of a trace, and where spans go. Plain values; who records makes them, any thread.
#ifndef PACELINE_PROTO_SUPPORT_SPAN_H_
#define PACELINE_PROTO_SUPPORT_SPAN_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace paceline {

// Never a prompt, an answer or a key.
struct SpanAttribute {
  const char* key;
  std::variant<int64_t, std::string> value;
};

struct Span {
  std::string trace_id;   // 32 hexadecimal digits
  std::string id;         // 16
  std::string parent_id;  // 16; empty: the trace begins with this span
  std::string name;
  bool is_request = false;  // asked for from outside; else a part of the work
  int64_t start_ns = 0;     // steady clock
  int64_t end_ns = 0;
  std::string error;  // what went wrong, one of a few constants; empty: nothing
  std::vector<SpanAttribute> attributes;
};

class SpanSink {
 public:
  virtual ~SpanSink() = default;
  // Whether to record a request that came with `traceparent` (empty: the trace begins here).
  virtual bool Samples(std::string_view trace_id, std::string_view traceparent) const = 0;
  // Any thread. Never blocks; drops the span when there are too many.
  virtual void Add(Span span) = 0;
};

}  // namespace paceline

#endif  // PACELINE_PROTO_SUPPORT_SPAN_H_
