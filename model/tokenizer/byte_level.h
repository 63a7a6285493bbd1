// GPT-2's byte-level alphabet: each byte has a printable character that stands for it in a
// vocabulary ("Ġ" for the space). Stateless; any thread.
#ifndef PACELINE_MODEL_TOKENIZER_BYTE_LEVEL_H_
#define PACELINE_MODEL_TOKENIZER_BYTE_LEVEL_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace paceline::model {

// The character of `byte`, as UTF-8.
std::string ByteLevelChar(uint8_t byte);

// Appends the bytes that `token` stands for; false, and nothing appended, when one of its
// characters is not in the alphabet.
bool AppendByteLevelDecoded(std::string_view token, std::string& out);

}  // namespace paceline::model

#endif  // PACELINE_MODEL_TOKENIZER_BYTE_LEVEL_H_
