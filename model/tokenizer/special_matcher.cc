#include "model/tokenizer/special_matcher.h"

namespace paceline::model {
namespace {

uint64_t ChildKey(uint32_t node, char byte) {
  return uint64_t{node} << 8 | static_cast<uint8_t>(byte);
}

}  // namespace

void SpecialMatcher::Add(std::string_view token, int32_t id, bool trusted_only) {
  if (token.empty()) return;
  first_bytes_.set(static_cast<uint8_t>(token[0]));
  uint32_t node = 0;
  for (const char byte : token) {
    const auto [it, inserted] =
        children_.try_emplace(ChildKey(node, byte), static_cast<uint32_t>(nodes_.size()));
    if (inserted) nodes_.emplace_back();
    node = it->second;
  }
  nodes_[node] = {id, trusted_only};
}

std::optional<SpecialMatch> SpecialMatcher::Find(std::string_view text,
                                                 size_t from,
                                                 absl::Span<const TextSpan> untrusted) const {
  size_t next = 0;  // the first untrusted range that ends behind `begin`
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!first_bytes_[static_cast<uint8_t>(text[begin])]) continue;
    while (next < untrusted.size() && untrusted[next].end <= begin) ++next;
    const size_t trusted_end = next < untrusted.size() ? untrusted[next].begin : text.size();
    if (const auto match = MatchAt(text, begin, trusted_end)) return match;
  }
  return std::nullopt;
}

// The longest token at `begin`; one that is for trusted text must end by `trusted_end`.
std::optional<SpecialMatch> SpecialMatcher::MatchAt(std::string_view text,
                                                    size_t begin,
                                                    size_t trusted_end) const {
  std::optional<SpecialMatch> longest;
  uint32_t node = 0;
  for (size_t end = begin; end < text.size();) {
    const auto child = children_.find(ChildKey(node, text[end]));
    if (child == children_.end()) break;
    node = child->second;
    ++end;
    if (nodes_[node].id < 0 || (nodes_[node].trusted_only && end > trusted_end)) continue;
    longest = SpecialMatch{begin, end, nodes_[node].id};
  }
  return longest;
}

}  // namespace paceline::model
