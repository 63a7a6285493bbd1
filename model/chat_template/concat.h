// Puts strings and integers together. (absl::StrCat does not take std::string_view where Abseil was
// built with a string_view of its own, as Debian's is.) Stateless; any thread.
#ifndef PACELINE_MODEL_CHAT_TEMPLATE_CONCAT_H_
#define PACELINE_MODEL_CHAT_TEMPLATE_CONCAT_H_

#include <concepts>
#include <string>
#include <string_view>

namespace paceline::model {

inline void AppendPiece(std::string* out, std::string_view piece) { out->append(piece); }
template <std::integral T>
void AppendPiece(std::string* out, T piece) {
  out->append(std::to_string(piece));
}

template <typename... Pieces>
std::string Concat(const Pieces&... pieces) {
  std::string out;
  (AppendPiece(&out, pieces), ...);
  return out;
}

}  // namespace paceline::model

#endif  // PACELINE_MODEL_CHAT_TEMPLATE_CONCAT_H_
