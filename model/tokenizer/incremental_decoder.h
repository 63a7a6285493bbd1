// Decodes ids one by one, for streaming: emits text as soon as no later id can change it.
// Owned by the one stream that it decodes for; not thread-safe.
#ifndef PACELINE_MODEL_TOKENIZER_INCREMENTAL_DECODER_H_
#define PACELINE_MODEL_TOKENIZER_INCREMENTAL_DECODER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/utf8.h"

namespace paceline::model {

class IncrementalDecoder {
 public:
  enum class Start {
    kNewText,   // the outputs, concatenated, equal Tokenizer::Decode of all ids
    kContinue,  // the text goes on behind a prompt, so a first space is part of it
  };

  IncrementalDecoder(std::shared_ptr<const Tokenizer> tokenizer,
                     bool skip_special,
                     Start start = Start::kNewText)
      : tokenizer_(std::move(tokenizer)),
        skip_special_(skip_special),
        at_text_start_(start == Start::kNewText) {}

  // The text that `id` completes: whole UTF-8 characters, perhaps none.
  std::string Append(int32_t id) {
    std::string text;
    stream_.Append(tokenizer_->DecodedBytes(id, skip_special_, at_text_start_), text);
    return text;
  }

  // What is left when no id follows: U+FFFD for a character that was cut off, or nothing.
  std::string Finish() {
    std::string text;
    stream_.Finish(text);
    return text;
  }

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  bool skip_special_;
  bool at_text_start_;
  Utf8Stream stream_;
};

}  // namespace paceline::model

#endif  // PACELINE_MODEL_TOKENIZER_INCREMENTAL_DECODER_H_
