#include "model/tokenizer/sentencepiece_bpe.h"

#include <algorithm>
#include <numeric>

#include "model/tokenizer/utf8.h"

namespace paceline::model {
namespace {

constexpr std::string_view kSpacePiece = "\xE2\x96\x81";  // U+2581
// Longer texts are cut, so that positions fit into 32 bits.
constexpr size_t kMaxPartBytes = size_t{1} << 30;

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

std::vector<uint32_t> RanksOfScores(const std::vector<float>& scores) {
  std::vector<uint32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(
      order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return scores[a] > scores[b]; });
  std::vector<uint32_t> ranks(scores.size());
  uint32_t rank = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    if (i > 0 && scores[order[i]] < scores[order[i - 1]]) ++rank;
    ranks[order[i]] = rank;
  }
  return ranks;
}

std::string EscapeSpaces(std::string_view text, bool add_space_prefix) {
  std::string escaped;
  escaped.reserve(text.size() + text.size() / 2 + kSpacePiece.size());
  if (add_space_prefix) escaped.append(kSpacePiece);
  for (const char c : text) {
    if (c == ' ') {
      escaped.append(kSpacePiece);
    } else {
      escaped.push_back(c);
    }
  }
  return escaped;
}

}  // namespace

int ByteOfPiece(std::string_view piece) {
  if (piece.size() != 6 || piece.substr(0, 3) != "<0x" || piece[5] != '>') return -1;
  const int high = HexDigit(piece[3]);
  const int low = HexDigit(piece[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

std::string UnescapePiece(std::string_view piece) {
  std::string text;
  for (size_t pos = 0; pos < piece.size();) {
    if (piece.substr(pos, kSpacePiece.size()) == kSpacePiece) {
      text.push_back(' ');
      pos += kSpacePiece.size();
    } else {
      text.push_back(piece[pos++]);
    }
  }
  return text;
}

SentencePieceBpe::SentencePieceBpe(const Vocabulary& vocabulary, const std::vector<bool>& is_text)
    : add_space_prefix_(vocabulary.add_space_prefix),
      unk_id_(vocabulary.unk_id),
      ranks_(RanksOfScores(vocabulary.scores)) {
  byte_ids_.fill(-1);
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string& token = vocabulary.tokens[id];
    if (is_text[id]) {
      pieces_.emplace(token, static_cast<int32_t>(id));
      max_piece_bytes_ = std::max(max_piece_bytes_, token.size());
    } else if (!vocabulary.token_types.empty() && vocabulary.token_types[id] == kByteToken) {
      byte_ids_[ByteOfPiece(token)] = static_cast<int32_t>(id);
    }
  }
}

void SentencePieceBpe::Encode(std::string_view text, std::vector<int32_t>& ids) const {
  if (text.empty()) return;
  const std::string escaped = EscapeSpaces(text, add_space_prefix_);
  std::string_view rest = escaped;
  for (; rest.size() > kMaxPartBytes; rest.remove_prefix(kMaxPartBytes)) {
    EncodePart(rest.substr(0, kMaxPartBytes), ids);
  }
  EncodePart(rest, ids);
}

void SentencePieceBpe::EncodePart(std::string_view text, std::vector<int32_t>& ids) const {
  std::vector<Symbol> symbols;
  symbols.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const uint32_t bytes = Utf8At(text, pos).bytes;
    const auto it = pieces_.find(text.substr(pos, bytes));
    symbols.push_back(Symbol{.id = it == pieces_.end() ? -1 : it->second,
                             .begin = static_cast<uint32_t>(pos),
                             .end = static_cast<uint32_t>(pos) + bytes});
    pos += bytes;
  }
  std::vector<uint64_t> heap;
  MergeSymbols(absl::MakeSpan(symbols), heap, [&](const Symbol& left, const Symbol& right) {
    return FindMerge(text, left, right);
  });
  bool after_unknown = false;
  for (uint32_t i = 0; i != kNoSymbol; i = symbols[i].next) {
    const Symbol& symbol = symbols[i];
    if (symbol.id >= 0) {
      ids.push_back(symbol.id);
      after_unknown = false;
    } else if (AppendByteTokens(text.substr(symbol.begin, symbol.end - symbol.begin), ids)) {
      after_unknown = false;
    } else {
      if (unk_id_ >= 0 && !after_unknown) ids.push_back(unk_id_);
      after_unknown = true;
    }
  }
}

Merge SentencePieceBpe::FindMerge(std::string_view text,
                                  const Symbol& left,
                                  const Symbol& right) const {
  const size_t bytes = right.end - left.begin;
  if (bytes > max_piece_bytes_) return {};
  const auto it = pieces_.find(text.substr(left.begin, bytes));
  if (it == pieces_.end()) return {};
  return Merge{ranks_[it->second], it->second};
}

bool SentencePieceBpe::AppendByteTokens(std::string_view character,
                                        std::vector<int32_t>& ids) const {
  const size_t begin = ids.size();
  for (const char byte : character) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(byte)];
    if (id < 0) {
      ids.resize(begin);
      return false;
    }
    ids.push_back(id);
  }
  return true;
}

}  // namespace paceline::model
