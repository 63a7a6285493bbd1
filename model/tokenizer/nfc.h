// Unicode normalisation form C. Stateless; any thread.
#ifndef PACELINE_MODEL_TOKENIZER_NFC_H_
#define PACELINE_MODEL_TOKENIZER_NFC_H_

#include <string>
#include <string_view>

namespace paceline::model {

// Writes `text` in NFC to `normalized` and returns true; returns false, with `normalized`
// unspecified, when all of `text` is ASCII and so is normal already. Bytes that are not valid UTF-8
// stay as they are and separate what stands before and behind them. O(n log n) for any text.
bool NormalizeNfc(std::string_view text, std::string& normalized);

}  // namespace paceline::model

#endif  // PACELINE_MODEL_TOKENIZER_NFC_H_
