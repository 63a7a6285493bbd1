// Turns the token ids of one choice into the text that a client sees: decodes them, finds stop
// texts, fills in log-probabilities. Owned by the choice; one thread at a time.
//
// The text of a choice is the decoded text of its tokens up to a stop text, and depends on the
// tokens alone, not on how they were grouped:
//   * The stop text that ends first wins; of several that end at the same place, the longest. Text
//     behind it is dropped, and it itself too unless include_stop_text.
//   * A stop text that ends within the text of the first min_tokens tokens does not count (it may
//     begin there).
//   * Text that may be the beginning of a stop text is held back until that is decided.
//   * Every piece of text is whole UTF-8 characters.
// The tokens of a choice are those up to the one that completed the stop text.
#ifndef PACELINE_ROUTER_TEXT_OUTPUT_ASSEMBLER_H_
#define PACELINE_ROUTER_TEXT_OUTPUT_ASSEMBLER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "model/tokenizer/incremental_decoder.h"
#include "model/tokenizer/tokenizer.h"
#include "proto/paceline/v1/inference.pb.h"
#include "proto/paceline/v1/worker.pb.h"
#include "router/text/stop_matcher.h"

namespace paceline::router {

struct OutputOptions {
  std::shared_ptr<const StopMatcher> stops;  // null: none
  bool include_stop_text = false;
  int32_t min_tokens = 0;
  bool skip_special_tokens = true;
  bool return_token_ids = false;
  int32_t text_offset = 0;  // code points that the client got before this output (echo)
};

// The public form of a token's log-probabilities.
v1::TokenLogprob ToTokenLogprob(const model::Tokenizer& tokenizer,
                                int32_t token_id,
                                const v1::Logprobs& logprobs,
                                int32_t text_offset);

class OutputAssembler {
 public:
  OutputAssembler(std::shared_ptr<const model::Tokenizer> tokenizer, OutputOptions options);

  // The next token. Appends to text, token_ids (with return_token_ids) and logprobs (when
  // `logprobs` is given) of `chunk`. True when a stop text matched with it: the choice is finished,
  // the worker should be told, and later calls do nothing.
  bool Append(int32_t token_id, const v1::Logprobs* logprobs, v1::GenerateChunk& chunk);

  // The next and last token, when it is a stop token or ends the sequence: its text is not shown.
  void AppendStopToken(int32_t token_id, const v1::Logprobs* logprobs, v1::GenerateChunk& chunk);

  // No token follows, for whatever reason: releases what was held back. Nothing after a stop text.
  void Finish(v1::GenerateChunk& chunk);

  bool stopped() const { return stop_index_ >= 0; }
  // The stop text that matched. REQUIRES: stopped().
  const std::string& stop_text() const { return options_.stops->stops()[stop_index_]; }
  // Tokens that belong to the output so far.
  int32_t num_tokens() const { return num_tokens_; }

 private:
  void AddToken(int32_t token_id, const v1::Logprobs* logprobs, v1::GenerateChunk& chunk);
  bool AddText(std::string_view text, std::string& out);

  const std::shared_ptr<const model::Tokenizer> tokenizer_;
  const OutputOptions options_;
  model::IncrementalDecoder decoder_;
  StopMatcher::State state_ = StopMatcher::kStart;
  std::string held_;  // decoded, not yet released
  int32_t num_tokens_ = 0;
  int32_t text_offset_;  // code points decoded so far, plus options_.text_offset
  int32_t stop_index_ = -1;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_TEXT_OUTPUT_ASSEMBLER_H_
