#include "model/tokenizer/vocabulary_gguf.h"

#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/tokenizer/end_tokens.h"
#include "model/tokenizer/pre_tokenizer.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

constexpr char kPrefix[] = "tokenizer.ggml.";

std::string Key(const char* name) { return absl::StrCat(kPrefix, name); }

absl::Status CheckArraySize(const GgufFile& file, const std::string& key, size_t limit) {
  if (!file.Has(key)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const int64_t size, file.GetArraySize(key));
  if (static_cast<uint64_t>(size) <= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(key, ": more than ", limit, " elements"));
}

absl::StatusOr<std::vector<std::string>> ReadStrings(const GgufFile& file, const std::string& key) {
  ASSIGN_OR_RETURN(const auto views, file.GetStrings(key));
  return std::vector<std::string>(views.begin(), views.end());
}

absl::Status ReadTokens(const GgufFile& file, Vocabulary& v) {
  for (const char* name : {"tokens", "token_type", "scores"}) {
    RETURN_IF_ERROR(CheckArraySize(file, Key(name), kMaxVocabularyTokens));
  }
  ASSIGN_OR_RETURN(v.tokens, ReadStrings(file, Key("tokens")));
  if (file.Has(Key("token_type"))) {
    ASSIGN_OR_RETURN(v.token_types, file.GetInt32s(Key("token_type")));
  }
  if (v.model == "llama") {
    ASSIGN_OR_RETURN(v.scores, file.GetFloats(Key("scores")));
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(CheckArraySize(file, Key("merges"), kMaxVocabularyMerges));
  ASSIGN_OR_RETURN(v.merges, ReadStrings(file, Key("merges")));
  return absl::OkStatus();
}

// The first special token of this text; -1 when there is none.
int32_t FindSpecial(const Vocabulary& v, std::string_view text) {
  for (size_t id = 0; id < v.tokens.size() && id < v.token_types.size(); ++id) {
    if (v.token_types[id] == kControlToken && v.tokens[id] == text) return static_cast<int32_t>(id);
  }
  return -1;
}

int32_t FindUnknown(const Vocabulary& v) {
  for (size_t id = 0; id < v.token_types.size(); ++id) {
    if (v.token_types[id] == kUnknownToken) return static_cast<int32_t>(id);
  }
  return -1;
}

int32_t FindEndOfTurn(const Vocabulary& v) {
  for (const std::string_view text : EndOfTurnTexts()) {
    if (const int32_t id = FindSpecial(v, text); id >= 0) return id;
  }
  return -1;
}

absl::Status ReadId(
    const GgufFile& file, const Vocabulary& v, const char* name, int32_t absent, int32_t& id) {
  const std::string key = Key(name);
  ASSIGN_OR_RETURN(const int64_t value, file.GetIntOr(key, absent));
  if (file.Has(key) && (value < 0 || static_cast<uint64_t>(value) >= v.tokens.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat(key, ": ", value, " is not the id of one of ", v.tokens.size(), " tokens"));
  }
  id = static_cast<int32_t>(value);
  return absl::OkStatus();
}

absl::Status ReadIds(const GgufFile& file, Vocabulary& v) {
  const bool is_llama = v.model == "llama";
  RETURN_IF_ERROR(ReadId(file, v, "bos_token_id", is_llama ? FindSpecial(v, "<s>") : -1, v.bos_id));
  RETURN_IF_ERROR(
      ReadId(file, v, "eos_token_id", is_llama ? FindSpecial(v, "</s>") : -1, v.eos_id));
  RETURN_IF_ERROR(ReadId(file, v, "eot_token_id", FindEndOfTurn(v), v.eot_id));
  RETURN_IF_ERROR(ReadId(file, v, "unknown_token_id", FindUnknown(v), v.unk_id));
  return ReadId(file, v, "padding_token_id", -1, v.pad_id);
}

absl::Status ReadFlags(const GgufFile& file, Vocabulary& v) {
  const bool is_llama = v.model == "llama";
  const bool adds_bos = is_llama || PreTokenizerByName(v.pre) == PreTokenizer::kLlama3;
  ASSIGN_OR_RETURN(v.add_bos, file.GetBoolOr(Key("add_bos_token"), adds_bos));
  ASSIGN_OR_RETURN(v.add_eos, file.GetBoolOr(Key("add_eos_token"), false));
  if (!is_llama) return absl::OkStatus();
  ASSIGN_OR_RETURN(v.add_space_prefix, file.GetBoolOr(Key("add_space_prefix"), true));
  return absl::OkStatus();
}

absl::Status ReadModelFacts(const GgufFile& file, Vocabulary& v) {
  constexpr char kTemplateKey[] = "tokenizer.chat_template";
  ASSIGN_OR_RETURN(const std::string_view chat_template, file.GetStringOr(kTemplateKey, ""));
  if (chat_template.size() > kMaxChatTemplateBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(kTemplateKey, ": more than ", kMaxChatTemplateBytes, " bytes"));
  }
  v.chat_template = std::string(chat_template);

  ASSIGN_OR_RETURN(const std::string_view architecture,
                   file.GetStringOr("general.architecture", ""));
  const std::string length_key = std::string(architecture) + ".context_length";
  ASSIGN_OR_RETURN(const int64_t context_length, file.GetIntOr(length_key, 0));
  if (context_length < 0 || context_length > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(absl::StrCat(length_key, ": ", context_length, " tokens"));
  }
  v.context_length = static_cast<int32_t>(context_length);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Vocabulary> VocabularyFromGguf(const GgufFile& file) {
  Vocabulary v;
  ASSIGN_OR_RETURN(v.model, file.GetString(Key("model")));
  if (v.model == "gpt2") {
    ASSIGN_OR_RETURN(v.pre, file.GetStringOr(Key("pre"), "default"));
  }
  RETURN_IF_ERROR(ReadTokens(file, v));
  RETURN_IF_ERROR(ReadIds(file, v));
  RETURN_IF_ERROR(ReadFlags(file, v));
  RETURN_IF_ERROR(ReadModelFacts(file, v));
  if (const absl::Status status = ValidateVocabulary(v); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat(kPrefix, status.message()));
  }
  return v;
}

}  // namespace paceline::model
