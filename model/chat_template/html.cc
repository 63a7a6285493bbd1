#include "model/chat_template/html.h"

#include <string_view>

namespace paceline::model {

void AppendHtmlEscaped(const Text& text, TextBuilder* out) {
  TrustCursor trust(text);
  size_t kept = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    std::string_view entity;
    switch (text.bytes[i]) {
      case '&':
        entity = "&amp;";
        break;
      case '<':
        entity = "&lt;";
        break;
      case '>':
        entity = "&gt;";
        break;
      case '"':
        entity = "&#34;";
        break;
      case '\'':
        entity = "&#39;";
        break;
      default:
        continue;
    }
    out->Append(text, kept, i);
    out->Append(entity, trust.Untrusted(i, i + 1));
    kept = i + 1;
  }
  out->Append(text, kept, text.size());
}

}  // namespace paceline::model
