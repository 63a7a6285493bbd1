#include "router/openai/logprobs.h"

#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"

namespace paceline::router {
namespace {

// JSON has no infinity; this is the value that vLLM shows.
constexpr float kMinLogprob = -9999.0F;

void WriteLogprob(float logprob, JsonWriter& writer) {
  writer.Float(std::isfinite(logprob) && logprob > kMinLogprob ? logprob : kMinLogprob);
}

// A token's text; one that is not whole characters is shown as OpenAI does: bytes:\xe2\x80.
std::string TokenText(std::string_view token) {
  size_t i = 0;
  while (i < token.size()) {
    const size_t length = Utf8CharacterLength(token.substr(i));
    if (length == 0) break;
    i += length;
  }
  if (i == token.size()) return std::string(token);
  std::string text = "bytes:";
  for (const char c : token) {
    absl::StrAppend(&text, "\\x", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
  }
  return text;
}

int64_t CodePoints(std::string_view token) {
  int64_t count = 0;
  for (const char c : token) count += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return count;
}

// The likeliest tokens, and the chosen one if it is not among them; each text once.
void WriteTopObject(const v1::TokenLogprob& token, JsonWriter& writer) {
  absl::flat_hash_set<std::string> seen;
  bool has_chosen = false;
  writer.BeginObject();
  for (const v1::TopLogprob& top : token.top()) {
    has_chosen |= top.token_id() == token.token_id();
    const auto [text, inserted] = seen.insert(TokenText(top.token()));
    if (!inserted) continue;
    writer.Key(*text);
    WriteLogprob(top.logprob(), writer);
  }
  if (std::string text = TokenText(token.token()); !has_chosen && !seen.contains(text)) {
    writer.Key(text);
    WriteLogprob(token.logprob(), writer);
  }
  writer.EndObject();
}

void WriteChatToken(std::string_view token, float logprob, JsonWriter& writer) {
  writer.Key("token").String(token).Key("logprob");
  WriteLogprob(logprob, writer);
  writer.Key("bytes").BeginArray();
  for (const char c : token) writer.Int(static_cast<unsigned char>(c));
  writer.EndArray();
}

void WriteRanked(
    int32_t id, float logprob, int32_t rank, const std::string& token, JsonWriter& writer) {
  writer.Key(std::to_string(id)).BeginObject().Key("logprob");
  WriteLogprob(logprob, writer);
  writer.Key("rank").Int(rank).Key("decoded_token").String(token).EndObject();
}

}  // namespace

void WriteCompletionLogprobs(const TokenLogprobs* echoed,
                             const TokenLogprobs& tokens,
                             JsonWriter& writer) {
  const size_t num_echoed = echoed != nullptr ? echoed->size() : 0;
  std::vector<const v1::TokenLogprob*> all;
  for (size_t i = 0; i < num_echoed; ++i) all.push_back(&echoed->Get(static_cast<int>(i)));
  for (const auto& token : tokens) all.push_back(&token);
  // The first token of a prompt has nothing before it and so no probability.
  const auto has_logprob = [&](size_t i) { return i >= num_echoed || all[i]->rank() > 0; };

  writer.BeginObject().Key("text_offset").BeginArray();
  int64_t prompt_offset = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    writer.Int(i < num_echoed ? prompt_offset : all[i]->text_offset());
    if (i < num_echoed) prompt_offset += CodePoints(all[i]->token());
  }
  writer.EndArray().Key("token_logprobs").BeginArray();
  for (size_t i = 0; i < all.size(); ++i) {
    has_logprob(i) ? WriteLogprob(all[i]->logprob(), writer) : void(writer.Null());
  }
  writer.EndArray().Key("tokens").BeginArray();
  for (const v1::TokenLogprob* token : all) writer.String(TokenText(token->token()));
  writer.EndArray().Key("top_logprobs").BeginArray();
  for (size_t i = 0; i < all.size(); ++i) {
    has_logprob(i) ? WriteTopObject(*all[i], writer) : void(writer.Null());
  }
  writer.EndArray().EndObject();
}

void WriteChatLogprobs(const TokenLogprobs& tokens, int32_t num_top, JsonWriter& writer) {
  writer.BeginObject().Key("content").BeginArray();
  for (const v1::TokenLogprob& token : tokens) {
    writer.BeginObject();
    WriteChatToken(token.token(), token.logprob(), writer);
    writer.Key("top_logprobs").BeginArray();
    for (int i = 0; i < token.top_size() && i < num_top; ++i) {
      writer.BeginObject();
      WriteChatToken(token.top(i).token(), token.top(i).logprob(), writer);
      writer.EndObject();
    }
    writer.EndArray().EndObject();
  }
  writer.EndArray().Key("refusal").Null().EndObject();
}

void WritePromptLogprobs(const TokenLogprobs& tokens, JsonWriter& writer) {
  writer.BeginArray();
  for (const v1::TokenLogprob& token : tokens) {
    if (token.rank() == 0) {
      writer.Null();
      continue;
    }
    writer.BeginObject();
    WriteRanked(token.token_id(), token.logprob(), token.rank(), token.token(), writer);
    for (int i = 0; i < token.top_size(); ++i) {
      const v1::TopLogprob& top = token.top(i);
      if (top.token_id() == token.token_id()) continue;
      WriteRanked(top.token_id(), top.logprob(), i + 1, top.token(), writer);
    }
    writer.EndObject();
  }
  writer.EndArray();
}

}  // namespace paceline::router
