// Keeps the spans that it is given. Any thread.
#ifndef PACELINE_TESTS_FAKES_RECORDING_SPANS_H_
#define PACELINE_TESTS_FAKES_RECORDING_SPANS_H_

#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "proto/support/span.h"
#include "proto/support/trace.h"

namespace paceline {

class RecordingSpans final : public SpanSink {
 public:
  bool Samples(std::string_view, std::string_view traceparent) const override {
    return traceparent.empty() ? samples_new : IsSampled(traceparent);
  }
  void Add(Span span) override {
    const std::lock_guard lock(mutex_);
    spans_.push_back(std::move(span));
  }

  std::vector<Span> All() const {
    const std::lock_guard lock(mutex_);
    return spans_;
  }
  std::vector<Span> Named(std::string_view name) const {
    std::vector<Span> found;
    for (Span& span : All()) {
      if (span.name == name) found.push_back(std::move(span));
    }
    return found;
  }

  bool samples_new = true;  // set before use

 private:
  mutable std::mutex mutex_;
  std::vector<Span> spans_;  // guarded by mutex_
};

// An attribute as text; "" when there is none.
inline std::string TextOf(const Span& span, std::string_view key) {
  for (const SpanAttribute& attribute : span.attributes) {
    if (key != attribute.key) continue;
    const auto* text = std::get_if<std::string>(&attribute.value);
    return text != nullptr ? *text : std::to_string(std::get<int64_t>(attribute.value));
  }
  return "";
}

}  // namespace paceline

#endif  // PACELINE_TESTS_FAKES_RECORDING_SPANS_H_
