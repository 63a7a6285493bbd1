#include "router/text/output_assembler.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace paceline::router {
namespace {

int32_t CountCodePoints(std::string_view text) {
  return static_cast<int32_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

}  // namespace

v1::TokenLogprob ToTokenLogprob(const model::Tokenizer& tokenizer,
                                int32_t token_id,
                                const v1::Logprobs& logprobs,
                                int32_t text_offset) {
  const auto bytes = [&](int32_t id) { return std::string(tokenizer.TokenBytes(id)); };
  v1::TokenLogprob result;
  result.set_token_id(token_id);
  result.set_logprob(logprobs.logprob());
  result.set_token(bytes(token_id));
  result.set_rank(logprobs.rank());
  result.set_text_offset(text_offset);
  const int count = std::min(logprobs.top_ids_size(), logprobs.top_logprobs_size());
  for (int i = 0; i < count; ++i) {
    v1::TopLogprob* top = result.add_top();
    top->set_token_id(logprobs.top_ids(i));
    top->set_logprob(logprobs.top_logprobs(i));
    top->set_token(bytes(logprobs.top_ids(i)));
  }
  return result;
}

OutputAssembler::OutputAssembler(std::shared_ptr<const model::Tokenizer> tokenizer,
                                 OutputOptions options)
    : tokenizer_(std::move(tokenizer)),
      options_(std::move(options)),
      decoder_(
          tokenizer_, options_.skip_special_tokens, model::IncrementalDecoder::Start::kContinue),
      text_offset_(options_.text_offset) {}

bool OutputAssembler::Append(int32_t token_id,
                             const v1::Logprobs* logprobs,
                             v1::GenerateChunk& chunk) {
  if (stopped()) return true;
  AddToken(token_id, logprobs, chunk);
  const std::string text = decoder_.Append(token_id);
  text_offset_ += CountCodePoints(text);
  return AddText(text, *chunk.mutable_text());
}

void OutputAssembler::AppendStopToken(int32_t token_id,
                                      const v1::Logprobs* logprobs,
                                      v1::GenerateChunk& chunk) {
  if (!stopped()) AddToken(token_id, logprobs, chunk);
}

void OutputAssembler::Finish(v1::GenerateChunk& chunk) {
  if (stopped()) return;
  chunk.mutable_text()->append(held_);
  chunk.mutable_text()->append(decoder_.Finish());
  held_.clear();
}

void OutputAssembler::AddToken(int32_t token_id,
                               const v1::Logprobs* logprobs,
                               v1::GenerateChunk& chunk) {
  ++num_tokens_;
  if (options_.return_token_ids) chunk.add_token_ids(token_id);
  if (logprobs != nullptr) {
    *chunk.add_logprobs() = ToTokenLogprob(*tokenizer_, token_id, *logprobs, text_offset_);
  }
}

// Searches `text`, and moves to `out` what cannot become part of a stop text. True when one
// matched.
bool OutputAssembler::AddText(std::string_view text, std::string& out) {
  if (options_.stops == nullptr) {
    out.append(text);
    return false;
  }
  const StopMatcher& stops = *options_.stops;
  for (size_t i = 0; i < text.size(); ++i) {
    state_ = stops.Next(state_, static_cast<uint8_t>(text[i]));
    const int32_t match = stops.Match(state_);
    if (match < 0 || num_tokens_ <= options_.min_tokens) continue;
    stop_index_ = match;
    held_.append(text.substr(0, i + 1));
    if (!options_.include_stop_text) held_.resize(held_.size() - stop_text().size());
    out.append(held_);
    held_.clear();
    return true;
  }
  held_.append(text);
  const size_t pending = options_.include_stop_text ? 0 : stops.Pending(state_);
  out.append(held_, 0, held_.size() - pending);
  held_.erase(0, held_.size() - pending);
  return false;
}

}  // namespace paceline::router
