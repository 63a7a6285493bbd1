// Finds stop texts in a stream of bytes: an Aho-Corasick automaton. Built once per request, shared
// by its choices. Immutable; any thread.
#ifndef PACELINE_ROUTER_TEXT_STOP_MATCHER_H_
#define PACELINE_ROUTER_TEXT_STOP_MATCHER_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"

namespace paceline::router {

class StopMatcher {
 public:
  using State = int32_t;
  static constexpr State kStart = 0;

  // REQUIRES: none of `stops` is empty.
  explicit StopMatcher(std::vector<std::string> stops);

  // The state after one more byte. O(1) amortised over a stream.
  State Next(State state, uint8_t byte) const;
  // Index of the longest stop text that ends with the last byte; -1: none.
  int32_t Match(State state) const { return nodes_[state].match; }
  // How many of the last bytes may still be the beginning of a stop text.
  int32_t Pending(State state) const { return nodes_[state].pending; }

  const std::vector<std::string>& stops() const { return stops_; }

 private:
  struct Node {
    std::vector<std::pair<uint8_t, State>> children;
    State fail = kStart;  // the longest proper suffix that begins a stop text
    int32_t match = -1;
    int32_t pending = 0;
  };

  State Child(State state, uint8_t byte) const;  // -1: none
  State Insert(const std::string& stop);
  void Link();

  std::vector<std::string> stops_;
  std::vector<Node> nodes_;  // a trie, parents before children
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_TEXT_STOP_MATCHER_H_
