// Finds the tokens that are matched in the text as a whole, before any pre-tokenizer sees it:
// special tokens, and those that the model's author added by hand. Owned by Tokenizer. Immutable
// after construction; any thread.
#ifndef PACELINE_MODEL_TOKENIZER_SPECIAL_MATCHER_H_
#define PACELINE_MODEL_TOKENIZER_SPECIAL_MATCHER_H_

#include <bitset>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "model/text_span.h"

namespace paceline::model {

struct SpecialMatch {
  size_t begin;  // bytes, in the text
  size_t end;
  int32_t id;
};

class SpecialMatcher {
 public:
  // Adds a token. `trusted_only`: it must not match a byte of untrusted text. Empty text is
  // ignored.
  void Add(std::string_view token, int32_t id, bool trusted_only);

  // The leftmost match that begins at `from` or later, the longest among those. `untrusted` is
  // sorted and its ranges do not overlap; ranges that end before `from` may be missing.
  std::optional<SpecialMatch> Find(std::string_view text,
                                   size_t from,
                                   absl::Span<const TextSpan> untrusted) const;

 private:
  struct Node {
    int32_t id = -1;  // token that ends here; -1: none
    bool trusted_only = false;
  };

  std::optional<SpecialMatch> MatchAt(std::string_view text,
                                      size_t begin,
                                      size_t trusted_end) const;

  std::bitset<256> first_bytes_;
  std::vector<Node> nodes_ = std::vector<Node>(1);    // a trie; the root is 0
  absl::flat_hash_map<uint64_t, uint32_t> children_;  // node << 8 | byte -> node
};

}  // namespace paceline::model

#endif  // PACELINE_MODEL_TOKENIZER_SPECIAL_MATCHER_H_
