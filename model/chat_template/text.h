// Text that remembers which of its bytes came from the request. A plain value; any thread.
#ifndef PACELINE_MODEL_CHAT_TEMPLATE_TEXT_H_
#define PACELINE_MODEL_CHAT_TEMPLATE_TEXT_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "model/text_span.h"

namespace paceline::model {

struct Text {
  std::string bytes;
  std::vector<TextSpan> untrusted;  // sorted, disjoint, not touching, none empty

  size_t size() const { return bytes.size(); }
  std::string_view View(size_t begin, size_t end) const {
    return std::string_view(bytes).substr(begin, end - begin);
  }
};

// Builds a Text from pieces; every piece carries its own trust.
class TextBuilder {
 public:
  void Append(std::string_view bytes, bool untrusted = false);
  void Append(char c, bool untrusted = false) { Append(std::string_view(&c, 1), untrusted); }
  void Append(const Text& text) { Append(text, 0, text.bytes.size()); }
  // REQUIRES: begin <= end <= text.bytes.size().
  void Append(const Text& text, size_t begin, size_t end);
  void AppendCopies(std::string_view bytes, size_t count, bool untrusted = false);

  size_t size() const { return text_.bytes.size(); }
  const Text& text() const { return text_; }
  Text Take() && { return std::move(text_); }

 private:
  void MarkUntrusted(size_t begin, size_t end);

  Text text_;
};

// Walks the untrusted ranges of one text along with a position that only moves forward.
class TrustCursor {
 public:
  explicit TrustCursor(const Text& text) : spans_(text.untrusted) {}
  // Whether any byte of [begin, end) is untrusted. REQUIRES: begin never decreases between calls.
  bool Untrusted(size_t begin, size_t end) {
    while (next_ < spans_.size() && spans_[next_].end <= begin) ++next_;
    return next_ < spans_.size() && spans_[next_].begin < end;
  }

 private:
  const std::vector<TextSpan>& spans_;
  size_t next_ = 0;
};

}  // namespace paceline::model

#endif  // PACELINE_MODEL_CHAT_TEMPLATE_TEXT_H_
