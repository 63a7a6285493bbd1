#include "model/tokenizer/vocabulary.h"

#include <cmath>
#include <string_view>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "model/tokenizer/pre_tokenizer.h"
#include "model/tokenizer/sentencepiece_bpe.h"
#include "model/tokenizer/utf8.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

absl::Status Invalid(const char* field, const std::string& problem) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", problem));
}

absl::Status InvalidAt(const char* field, size_t index, const std::string& problem) {
  return absl::InvalidArgumentError(absl::StrCat(field, "[", index, "]: ", problem));
}

absl::Status CheckModel(const Vocabulary& v) {
  if (v.model != "gpt2" && v.model != "llama") {
    return Invalid("model", "unknown tokenizer (known: gpt2, llama)");
  }
  if (v.model == "gpt2" && !PreTokenizerByName(v.pre).has_value()) {
    return Invalid("pre",
                   "unknown pre-tokenizer (known: default, gpt-2, smollm, llama-bpe, qwen2)");
  }
  if (v.model == "gpt2" && v.add_space_prefix) {
    return Invalid("add_space_prefix", "true, which byte-level BPE has no use for");
  }
  return absl::OkStatus();
}

absl::Status CheckSizes(const Vocabulary& v) {
  if (v.tokens.empty()) return Invalid("tokens", "empty");
  if (v.tokens.size() > kMaxVocabularyTokens) {
    return Invalid("tokens", absl::StrCat("more than ", kMaxVocabularyTokens));
  }
  if (!v.token_types.empty() && v.token_types.size() != v.tokens.size()) {
    return Invalid("token_type",
                   absl::StrCat(v.token_types.size(), " for ", v.tokens.size(), " tokens"));
  }
  if (v.model == "llama" && v.scores.size() != v.tokens.size()) {
    return Invalid("scores", absl::StrCat(v.scores.size(), " for ", v.tokens.size(), " tokens"));
  }
  if (v.merges.size() > kMaxVocabularyMerges) {
    return Invalid("merges", absl::StrCat("more than ", kMaxVocabularyMerges));
  }
  if (v.chat_template.size() > kMaxChatTemplateBytes) {
    return Invalid("chat_template", absl::StrCat("more than ", kMaxChatTemplateBytes, " bytes"));
  }
  if (v.context_length < 0) return Invalid("context_length", "negative");
  size_t bytes = 0;
  for (const std::string& token : v.tokens) bytes += token.size();
  for (const std::string& merge : v.merges) bytes += merge.size();
  if (bytes > kMaxVocabularyBytes) {
    return Invalid("tokens", absl::StrCat("more than ", kMaxVocabularyBytes, " bytes in all"));
  }
  return absl::OkStatus();
}

absl::Status CheckTokens(const Vocabulary& v, absl::flat_hash_set<std::string_view>& tokens) {
  tokens.reserve(v.tokens.size());
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    const std::string& token = v.tokens[id];
    if (token.size() > kMaxTokenBytes) {
      return InvalidAt("tokens", id, absl::StrCat("longer than ", kMaxTokenBytes, " bytes"));
    }
    if (!IsValidUtf8(token)) return InvalidAt("tokens", id, "not UTF-8");
    // An empty token can neither be matched nor seen; some files pad with them.
    if (!token.empty() && !tokens.insert(token).second) {
      return InvalidAt("tokens", id, "stands in the vocabulary twice");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckTypesAndScores(const Vocabulary& v) {
  for (size_t id = 0; id < v.token_types.size(); ++id) {
    if (v.token_types[id] < kNormalToken || v.token_types[id] > kByteToken) {
      return InvalidAt("token_type", id, "not a token type (1 to 6)");
    }
    if (v.model == "llama" && v.token_types[id] == kByteToken && ByteOfPiece(v.tokens[id]) < 0) {
      return InvalidAt("token_type", id, "a byte token whose text is not of the form <0x00>");
    }
  }
  for (size_t id = 0; id < v.scores.size(); ++id) {
    if (std::isnan(v.scores[id])) return InvalidAt("scores", id, "not a number");
  }
  return absl::OkStatus();
}

// A merge joins two tokens into a third, so none can lead back to itself.
absl::Status CheckMerges(const Vocabulary& v, const absl::flat_hash_set<std::string_view>& tokens) {
  std::string joined;
  for (size_t i = 0; i < v.merges.size(); ++i) {
    const std::string_view merge = v.merges[i];
    const size_t space = merge.find(' ');
    if (merge.size() > 2 * kMaxTokenBytes || space == std::string_view::npos || space == 0 ||
        space + 1 == merge.size() || merge.find(' ', space + 1) != std::string_view::npos) {
      return InvalidAt("merges", i, "not two tokens with a space between them");
    }
    const std::string_view left = merge.substr(0, space);
    const std::string_view right = merge.substr(space + 1);
    joined.assign(left).append(right);
    if (!tokens.contains(left) || !tokens.contains(right) || !tokens.contains(joined)) {
      return InvalidAt("merges", i, "a part or the result is not in the vocabulary");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckId(const Vocabulary& v, const char* field, int32_t id) {
  if (id >= -1 && id < static_cast<int64_t>(v.tokens.size())) return absl::OkStatus();
  return Invalid(field, absl::StrCat(id, " is not the id of one of ", v.tokens.size(), " tokens"));
}

}  // namespace

absl::Status ValidateVocabulary(const Vocabulary& vocabulary) {
  const Vocabulary& v = vocabulary;
  RETURN_IF_ERROR(CheckModel(v));
  RETURN_IF_ERROR(CheckSizes(v));
  absl::flat_hash_set<std::string_view> tokens;
  RETURN_IF_ERROR(CheckTokens(v, tokens));
  RETURN_IF_ERROR(CheckTypesAndScores(v));
  RETURN_IF_ERROR(CheckMerges(v, tokens));
  RETURN_IF_ERROR(CheckId(v, "bos_token_id", v.bos_id));
  RETURN_IF_ERROR(CheckId(v, "eos_token_id", v.eos_id));
  RETURN_IF_ERROR(CheckId(v, "eot_token_id", v.eot_id));
  RETURN_IF_ERROR(CheckId(v, "unknown_token_id", v.unk_id));
  return CheckId(v, "padding_token_id", v.pad_id);
}

}  // namespace paceline::model
