// Reads the vocabulary out of a GGUF file. Stateless; any thread.
#ifndef PACELINE_MODEL_TOKENIZER_VOCABULARY_GGUF_H_
#define PACELINE_MODEL_TOKENIZER_VOCABULARY_GGUF_H_

#include "absl/status/statusor.h"
#include "model/gguf/gguf_file.h"
#include "model/tokenizer/vocabulary.h"

namespace paceline::model {

// The vocabulary in the keys tokenizer.* and <architecture>.context_length; the file needs no
// tensors. What it returns passes ValidateVocabulary. NotFound, or InvalidArgument, naming the key,
// when a key is missing, of a wrong type or size, or inconsistent with the others.
absl::StatusOr<Vocabulary> VocabularyFromGguf(const GgufFile& file);

}  // namespace paceline::model

#endif  // PACELINE_MODEL_TOKENIZER_VOCABULARY_GGUF_H_
