#include "model/tokenizer/byte_level_bpe.h"

#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/nfc.h"

namespace paceline::model {
namespace {

// Longer words are cut, so that positions fit into 32 bits.
constexpr size_t kMaxWordBytes = size_t{1} << 30;
// Words that repeat within a text are looked up instead of merged again, up to this length.
constexpr size_t kMaxRememberedWordBytes = 64;

uint64_t PairKey(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

}  // namespace

ByteLevelBpe::ByteLevelBpe(const Vocabulary& vocabulary, const std::vector<bool>& is_text)
    : pre_tokenizer_(PreTokenizerByName(vocabulary.pre).value_or(PreTokenizer::kGpt2)) {
  absl::flat_hash_map<std::string_view, int32_t> ids;
  ids.reserve(vocabulary.tokens.size());
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (is_text[id]) ids.emplace(vocabulary.tokens[id], static_cast<int32_t>(id));
  }
  const auto find = [&ids](std::string_view token) {
    const auto it = ids.find(token);
    return it == ids.end() ? -1 : it->second;
  };
  for (int byte = 0; byte < 256; ++byte) {
    byte_ids_[byte] = find(ByteLevelChar(static_cast<uint8_t>(byte)));
  }
  merges_.reserve(vocabulary.merges.size());
  std::string joined;
  for (size_t rank = 0; rank < vocabulary.merges.size(); ++rank) {
    const std::string_view merge = vocabulary.merges[rank];
    const size_t space = merge.find(' ');
    joined.assign(merge.substr(0, space)).append(merge.substr(space + 1));
    const int32_t left = find(merge.substr(0, space));
    const int32_t right = find(merge.substr(space + 1));
    const int32_t result = find(joined);
    if (left < 0 || right < 0 || result < 0) continue;
    // A pair that is listed twice counts where it stands last, as in Hugging Face's map.
    merges_[PairKey(left, right)] = Merge{static_cast<uint32_t>(rank), result};
  }
  if (pre_tokenizer_ != PreTokenizer::kLlama3) return;
  size_t num_bytes = 0;
  for (const auto& [token, id] : ids) num_bytes += token.size();
  word_bytes_.reserve(num_bytes);  // so that the views stay valid
  words_.reserve(ids.size());
  for (const auto& [token, id] : ids) {
    const size_t begin = word_bytes_.size();
    if (AppendByteLevelDecoded(token, word_bytes_)) {
      words_.emplace(std::string_view(word_bytes_).substr(begin), id);
    }
  }
}

void ByteLevelBpe::Encode(std::string_view text, std::vector<int32_t>& ids) const {
  std::string normalized;
  if (pre_tokenizer_ == PreTokenizer::kQwen2) {
    if (NormalizeNfc(text, normalized)) text = normalized;
  }
  struct Ids {
    size_t begin;  // in `ids`
    size_t count;
  };
  absl::flat_hash_map<std::string_view, Ids> seen;
  Scratch scratch;
  SplitWords(pre_tokenizer_, text, [&](std::string_view word) {
    const bool remember = word.size() <= kMaxRememberedWordBytes;
    if (remember) {
      if (const auto it = seen.find(word); it != seen.end()) {
        for (size_t i = 0; i < it->second.count; ++i) ids.push_back(ids[it->second.begin + i]);
        return;
      }
    }
    const size_t begin = ids.size();
    for (; word.size() > kMaxWordBytes; word.remove_prefix(kMaxWordBytes)) {
      EncodeWord(word.substr(0, kMaxWordBytes), scratch, ids);
    }
    EncodeWord(word, scratch, ids);
    if (remember) seen.emplace(word, Ids{begin, ids.size() - begin});
  });
}

void ByteLevelBpe::EncodeWord(std::string_view word,
                              Scratch& scratch,
                              std::vector<int32_t>& ids) const {
  if (const auto it = words_.find(word); it != words_.end()) {
    ids.push_back(it->second);
    return;
  }
  MergeWord(word, scratch, ids);
}

void ByteLevelBpe::MergeWord(std::string_view word,
                             Scratch& scratch,
                             std::vector<int32_t>& ids) const {
  std::vector<Symbol>& symbols = scratch.symbols;
  symbols.clear();
  for (const char byte : word) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(byte)];
    if (id >= 0) symbols.push_back(Symbol{.id = id});
  }
  if (symbols.empty()) return;
  MergeSymbols(
      absl::MakeSpan(symbols), scratch.heap, [this](const Symbol& left, const Symbol& right) {
        const auto it = merges_.find(PairKey(left.id, right.id));
        return it == merges_.end() ? Merge{} : it->second;
      });
  for (uint32_t i = 0; i != kNoSymbol; i = symbols[i].next) ids.push_back(symbols[i].id);
}

}  // namespace paceline::model
