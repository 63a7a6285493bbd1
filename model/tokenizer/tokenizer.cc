#include "model/tokenizer/tokenizer.h"

#include <algorithm>
#include <utility>

#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/byte_level_bpe.h"
#include "model/tokenizer/end_tokens.h"
#include "model/tokenizer/sentencepiece_bpe.h"
#include "model/tokenizer/utf8.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

// A user-defined token that is markup of a chat format rather than text.
bool IsMarkup(std::string_view token) {
  return token.size() > 2 && ((token.front() == '<' && token.back() == '>') ||
                              (token.front() == '[' && token.back() == ']'));
}

// `spans` sorted, without empty and overlapping ones.
std::vector<TextSpan> Normalized(absl::Span<const TextSpan> spans) {
  std::vector<TextSpan> sorted(spans.begin(), spans.end());
  std::sort(sorted.begin(), sorted.end(), [](const TextSpan& a, const TextSpan& b) {
    return a.begin < b.begin;
  });
  std::vector<TextSpan> result;
  for (const TextSpan& span : sorted) {
    if (span.begin >= span.end) continue;
    if (!result.empty() && span.begin <= result.back().end) {
      result.back().end = std::max(result.back().end, span.end);
    } else {
      result.push_back(span);
    }
  }
  return result;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::Create(Vocabulary vocabulary) {
  RETURN_IF_ERROR(ValidateVocabulary(vocabulary));
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(vocabulary)));
}

Tokenizer::Tokenizer(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {
  const size_t size = vocabulary_.tokens.size();
  ids_.reserve(size);
  flags_.resize(size);
  byte_ends_.reserve(size);
  std::vector<bool> is_text(size);
  for (size_t id = 0; id < size; ++id) AddToken(id, is_text);
  for (const int32_t id : {vocabulary_.eos_id, vocabulary_.eot_id}) {
    if (id >= 0) flags_[id] |= kEndOfGeneration;
  }
  if (vocabulary_.model == "llama") {
    text_encoder_ = std::make_unique<SentencePieceBpe>(vocabulary_, is_text);
  } else {
    text_encoder_ = std::make_unique<ByteLevelBpe>(vocabulary_, is_text);
  }
}

TokenType Tokenizer::TypeOf(size_t id) const {
  return vocabulary_.token_types.empty() ? kNormalToken
                                         : static_cast<TokenType>(vocabulary_.token_types[id]);
}

std::string Tokenizer::BytesOf(size_t id) const {
  const std::string& token = vocabulary_.tokens[id];
  const TokenType type = TypeOf(id);
  if (type == kControlToken || type == kUnknownToken) return token;
  if (vocabulary_.model == "llama") {
    if (type == kByteToken) return std::string(1, static_cast<char>(ByteOfPiece(token)));
    return UnescapePiece(token);
  }
  std::string bytes;
  if (type == kUserDefinedToken || !AppendByteLevelDecoded(token, bytes)) return token;
  return bytes;
}

void Tokenizer::AddToken(size_t id, std::vector<bool>& is_text) {
  const std::string& token = vocabulary_.tokens[id];
  const std::string bytes = BytesOf(id);
  bytes_.append(bytes);
  byte_ends_.push_back(static_cast<uint32_t>(bytes_.size()));
  if (token.empty()) return;

  ids_.emplace(token, static_cast<int32_t>(id));
  const bool is_llama = vocabulary_.model == "llama";
  switch (TypeOf(id)) {
    case kNormalToken:
      is_text[id] = true;
      break;
    case kUnknownToken:
    case kControlToken:
      flags_[id] |= kSpecial;
      if (IsEndTokenText(token)) flags_[id] |= kEndOfGeneration;
      special_.Add(bytes, static_cast<int32_t>(id), /*trusted_only=*/true);
      break;
    case kUserDefinedToken:
      is_text[id] = !IsMarkup(token);
      special_.Add(bytes, static_cast<int32_t>(id), /*trusted_only=*/IsMarkup(token));
      break;
    case kByteToken:
      is_text[id] = !is_llama;
      break;
    case kUnusedToken:
      break;
  }
}

std::vector<int32_t> Tokenizer::Encode(std::string_view text, const EncodeOptions& options) const {
  std::vector<int32_t> ids;
  if (options.add_special && vocabulary_.add_bos && vocabulary_.bos_id >= 0) {
    ids.push_back(vocabulary_.bos_id);
  }
  const TextSpan all{0, text.size()};
  EncodePart(text,
             Normalized(options.parse_special ? options.untrusted : absl::MakeConstSpan(&all, 1)),
             ids);
  if (options.add_special && vocabulary_.add_eos && vocabulary_.eos_id >= 0) {
    ids.push_back(vocabulary_.eos_id);
  }
  return ids;
}

void Tokenizer::EncodePart(std::string_view text,
                           absl::Span<const TextSpan> untrusted,
                           std::vector<int32_t>& ids) const {
  size_t pos = 0;
  while (const auto match = special_.Find(text, pos, untrusted)) {
    text_encoder_->Encode(text.substr(pos, match->begin - pos), ids);
    ids.push_back(match->id);
    pos = match->end;
    while (!untrusted.empty() && untrusted.front().end <= pos) untrusted.remove_prefix(1);
  }
  text_encoder_->Encode(text.substr(pos), ids);
}

std::string Tokenizer::Decode(absl::Span<const int32_t> ids, bool skip_special) const {
  std::string text;
  Utf8Stream stream;
  bool at_text_start = true;
  for (const int32_t id : ids) {
    stream.Append(DecodedBytes(id, skip_special, at_text_start), text);
  }
  stream.Finish(text);
  return text;
}

std::string_view Tokenizer::TokenBytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  const uint32_t begin = id == 0 ? 0 : byte_ends_[id - 1];
  return std::string_view(bytes_).substr(begin, byte_ends_[id] - begin);
}

std::string_view Tokenizer::DecodedBytes(int32_t id, bool skip_special, bool& at_text_start) const {
  if (skip_special && IsSpecial(id)) return {};
  std::string_view bytes = TokenBytes(id);
  if (at_text_start && !bytes.empty()) {
    at_text_start = false;
    if (vocabulary_.add_space_prefix && bytes.front() == ' ') bytes.remove_prefix(1);
  }
  return bytes;
}

std::optional<int32_t> Tokenizer::Find(std::string_view token) const {
  const auto it = ids_.find(token);
  if (it == ids_.end()) return std::nullopt;
  return it->second;
}

}  // namespace paceline::model
