// Numbers out of text, and decimal rounding, as Python's int, float and round do them. Stateless;
// any thread.
#ifndef PACELINE_MODEL_CHAT_TEMPLATE_NUMBER_TEXT_H_
#define PACELINE_MODEL_CHAT_TEMPLATE_NUMBER_TEXT_H_

#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "model/chat_template/value.h"

namespace paceline::model {

// int(text, base); base 0 reads 0x, 0o and 0b. Absent where Python raises or 64 bits are too few.
std::optional<int64_t> ParseInt(std::string_view text, int base);
// float(text).
std::optional<double> ParseFloat(std::string_view text);
// round(value, digits): to the nearest, of two equally near the even one.
double RoundDecimal(double value, int digits);
// round(value, digits) for negative digits.
absl::StatusOr<Value> RoundInt(int64_t value, int64_t digits, bool untrusted);

}  // namespace paceline::model

#endif  // PACELINE_MODEL_CHAT_TEMPLATE_NUMBER_TEXT_H_
