#include "router/text/stop_matcher.h"

#include <algorithm>

namespace paceline::router {

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)), nodes_(1) {
  for (size_t i = 0; i < stops_.size(); ++i) {
    Node& end = nodes_[Insert(stops_[i])];
    if (end.match < 0) end.match = static_cast<int32_t>(i);
  }
  Link();
}

StopMatcher::State StopMatcher::Child(State state, uint8_t byte) const {
  for (const auto& [label, child] : nodes_[state].children) {
    if (label == byte) return child;
  }
  return -1;
}

StopMatcher::State StopMatcher::Next(State state, uint8_t byte) const {
  while (true) {
    const State child = Child(state, byte);
    if (child >= 0) return child;
    if (state == kStart) return kStart;
    state = nodes_[state].fail;
  }
}

StopMatcher::State StopMatcher::Insert(const std::string& stop) {
  State state = kStart;
  for (char c : stop) {
    const uint8_t byte = static_cast<uint8_t>(c);
    State child = Child(state, byte);
    if (child < 0) {
      child = static_cast<State>(nodes_.size());
      nodes_[state].children.emplace_back(byte, child);
      nodes_.emplace_back();
    }
    state = child;
  }
  return state;
}

// Breadth first: the failure link of a node is shallower, so it is complete when the node needs it.
void StopMatcher::Link() {
  struct Visit {
    State state;
    int32_t depth;
  };
  std::vector<Visit> queue = {{kStart, 0}};
  for (size_t i = 0; i < queue.size(); ++i) {
    const auto [state, depth] = queue[i];
    for (const auto& [byte, child] : nodes_[state].children) {
      Node& node = nodes_[child];
      if (state != kStart) node.fail = Next(nodes_[state].fail, byte);
      const Node& suffix = nodes_[node.fail];
      if (node.match < 0) node.match = suffix.match;
      node.pending = node.children.empty() ? suffix.pending : depth + 1;
      queue.push_back({child, depth + 1});
    }
  }
}

}  // namespace paceline::router
