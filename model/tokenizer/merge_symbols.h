// The merge loop that both kinds of BPE share: always the best pair, the leftmost among equals,
// until none is left. O(n log n) for n symbols. Stateless; any thread.
#ifndef PACELINE_MODEL_TOKENIZER_MERGE_SYMBOLS_H_
#define PACELINE_MODEL_TOKENIZER_MERGE_SYMBOLS_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/types/span.h"

namespace paceline::model {

inline constexpr uint32_t kNoMerge = UINT32_MAX;
inline constexpr uint32_t kNoSymbol = UINT32_MAX;

// What two neighbours become.
struct Merge {
  uint32_t rank = kNoMerge;  // lower merges first; kNoMerge: they stay apart
  int32_t id = -1;           // token of the merged symbol
};

// One piece of a word. The first symbol is never merged away, so a walk from 0 along `next` visits
// what is left.
struct Symbol {
  int32_t id = -1;     // token; -1: none (SentencePiece only)
  uint32_t begin = 0;  // bytes, in the word
  uint32_t end = 0;
  uint32_t next = kNoSymbol;
  uint32_t previous = kNoSymbol;
  Merge merge;  // with the next symbol
};

// Joins `symbols` (linked here, in order). `find_merge(left, right)` gives the Merge of two
// symbols. `heap` is scratch space.
template <typename FindMerge>
void MergeSymbols(absl::Span<Symbol> symbols, std::vector<uint64_t>& heap, FindMerge find_merge) {
  const auto n = static_cast<uint32_t>(symbols.size());
  // An entry is rank and position. It is out of date when the symbol's merge has another rank by
  // now.
  const auto key = [](uint32_t rank, uint32_t i) { return uint64_t{rank} << 32 | i; };
  heap.clear();
  for (uint32_t i = 0; i < n; ++i) {
    Symbol& symbol = symbols[i];
    symbol.previous = i > 0 ? i - 1 : kNoSymbol;
    symbol.next = i + 1 < n ? i + 1 : kNoSymbol;
    symbol.merge = i + 1 < n ? find_merge(symbol, symbols[i + 1]) : Merge{};
    if (symbol.merge.rank != kNoMerge) heap.push_back(key(symbol.merge.rank, i));
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());

  const auto update = [&](uint32_t i) {
    Symbol& symbol = symbols[i];
    symbol.merge = symbol.next != kNoSymbol ? find_merge(symbol, symbols[symbol.next]) : Merge{};
    if (symbol.merge.rank == kNoMerge) return;
    heap.push_back(key(symbol.merge.rank, i));
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const uint64_t entry = heap.back();
    heap.pop_back();
    const auto i = static_cast<uint32_t>(entry);
    Symbol& left = symbols[i];
    if (left.merge.rank != static_cast<uint32_t>(entry >> 32)) continue;

    Symbol& right = symbols[left.next];
    left.id = left.merge.id;
    left.end = right.end;
    left.next = right.next;
    if (right.next != kNoSymbol) symbols[right.next].previous = i;
    right.merge = Merge{};
    update(i);
    if (left.previous != kNoSymbol) update(left.previous);
  }
}

}  // namespace paceline::model

#endif  // PACELINE_MODEL_TOKENIZER_MERGE_SYMBOLS_H_
