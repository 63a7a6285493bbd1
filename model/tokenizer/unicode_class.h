// The Unicode classes that pre-tokenizers ask for: \p{L}, \p{N} and \s, from the tables that
// Hugging Face tokenizers uses (unicode_ranges.inc). Stateless; any thread.
#ifndef PACELINE_MODEL_TOKENIZER_UNICODE_CLASS_H_
#define PACELINE_MODEL_TOKENIZER_UNICODE_CLASS_H_

#include <cstdint>

namespace paceline::model {

enum class UnicodeClass : uint8_t { kOther, kLetter, kNumber, kSpace, kNewNumber };

// The class of a code point; kOther for anything that is none. kNewNumber: a number of a Unicode
// version that only Hugging Face's digit splitter knows; everything else takes it for kOther.
UnicodeClass UnicodeClassOf(uint32_t code_point);

}  // namespace paceline::model

#endif  // PACELINE_MODEL_TOKENIZER_UNICODE_CLASS_H_
