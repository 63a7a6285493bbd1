#include "model/chat_template/text.h"

#include <algorithm>

namespace paceline::model {

void TextBuilder::MarkUntrusted(size_t begin, size_t end) {
  if (begin == end) return;
  if (!text_.untrusted.empty() && text_.untrusted.back().end == begin) {
    text_.untrusted.back().end = end;
  } else {
    text_.untrusted.push_back({begin, end});
  }
}

void TextBuilder::Append(std::string_view bytes, bool untrusted) {
  const size_t begin = text_.bytes.size();
  text_.bytes.append(bytes);
  if (untrusted) MarkUntrusted(begin, text_.bytes.size());
}

void TextBuilder::Append(const Text& text, size_t begin, size_t end) {
  const size_t offset = text_.bytes.size();
  text_.bytes.append(text.bytes, begin, end - begin);
  auto span = std::lower_bound(
      text.untrusted.begin(), text.untrusted.end(), begin, [](const TextSpan& s, size_t pos) {
        return s.end <= pos;
      });
  for (; span != text.untrusted.end() && span->begin < end; ++span) {
    MarkUntrusted(offset + std::max(span->begin, begin) - begin,
                  offset + std::min(span->end, end) - begin);
  }
}

void TextBuilder::AppendCopies(std::string_view bytes, size_t count, bool untrusted) {
  const size_t begin = text_.bytes.size();
  text_.bytes.reserve(begin + bytes.size() * count);
  for (size_t i = 0; i < count; ++i) text_.bytes.append(bytes);
  if (untrusted) MarkUntrusted(begin, text_.bytes.size());
}

}  // namespace paceline::model
