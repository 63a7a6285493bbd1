#include "model/chat_template/number_text.h"

#include <charconv>
#include <cmath>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "model/chat_template/native.h"

namespace paceline::model {
namespace {

// Without surrounding space and with single underscores between digits taken out; absent when they
// stand anywhere else.
std::optional<std::string> Clean(std::string_view text) {
  const auto space = [](char c) { return absl::ascii_isspace(static_cast<unsigned char>(c)); };
  while (!text.empty() && space(text.front())) text.remove_prefix(1);
  while (!text.empty() && space(text.back())) text.remove_suffix(1);
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '_') {
      const bool between = i > 0 && i + 1 < text.size() && absl::ascii_isalnum(text[i - 1]) &&
                           absl::ascii_isalnum(text[i + 1]);
      if (!between) return std::nullopt;
      continue;
    }
    out.push_back(text[i]);
  }
  return out;
}

}  // namespace

std::optional<int64_t> ParseInt(std::string_view text, int base) {
  const std::optional<std::string> clean = Clean(text);
  if (!clean.has_value()) return std::nullopt;
  std::string_view digits = *clean;
  const bool negative = !digits.empty() && digits[0] == '-';
  if (!digits.empty() && (digits[0] == '-' || digits[0] == '+')) digits.remove_prefix(1);
  if (digits.size() > 2 && digits[0] == '0') {
    const char letter = absl::ascii_tolower(static_cast<unsigned char>(digits[1]));
    const int prefix_base = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    if (prefix_base != 0 && (base == 0 || base == prefix_base)) {
      digits.remove_prefix(2);
      base = prefix_base;
    }
  }
  if (base == 0) base = 10;
  uint64_t magnitude = 0;
  const auto parsed =
      std::from_chars(digits.data(), digits.data() + digits.size(), magnitude, base);
  const uint64_t limit = uint64_t{INT64_MAX} + (negative ? 1 : 0);
  if (digits.empty() || parsed.ec != std::errc() || parsed.ptr != digits.data() + digits.size() ||
      magnitude > limit) {
    return std::nullopt;
  }
  return static_cast<int64_t>(negative ? uint64_t{0} - magnitude : magnitude);
}

std::optional<double> ParseFloat(std::string_view text) {
  const std::optional<std::string> clean = Clean(text);
  if (!clean.has_value() || clean->empty()) return std::nullopt;
  std::string_view digits = *clean;
  const bool negative = digits[0] == '-';
  if (digits[0] == '-' || digits[0] == '+') digits.remove_prefix(1);
  const std::string lower = absl::AsciiStrToLower(std::string(digits));
  double value = 0;
  if (lower == "inf" || lower == "infinity") {
    value = HUGE_VAL;
  } else if (lower == "nan") {
    value = NAN;
  } else {
    if (digits.empty() ||
        !(absl::ascii_isdigit(static_cast<unsigned char>(digits[0])) || digits[0] == '.')) {
      return std::nullopt;
    }
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (parsed.ptr != digits.data() + digits.size()) return std::nullopt;
    if (parsed.ec == std::errc::result_out_of_range) {
      value = std::strtod(std::string(digits).c_str(), nullptr);
    } else if (parsed.ec != std::errc()) {
      return std::nullopt;
    }
  }
  return negative ? -value : value;
}

double RoundDecimal(double value, int digits) {
  if (std::isnan(value) || std::isinf(value)) return value;
  if (digits >= 0) {
    // printf rounds the exact binary value to the nearest decimal, halves to even: what Python
    // does.
    const std::string text = absl::StrFormat("%.*f", digits, value);
    return std::strtod(text.c_str(), nullptr);
  }
  const double scale = std::pow(10.0, -digits);
  const double scaled = value / scale;
  return std::nearbyint(scaled) * scale;
}

absl::StatusOr<Value> RoundInt(int64_t value, int64_t digits, bool untrusted) {
  if (digits < -18) return Value::Int(0, untrusted);
  __int128 scale = 1;
  for (int64_t i = 0; i < -digits; ++i) scale *= 10;
  const __int128 whole = value;
  __int128 rest = whole % scale;
  if (rest < 0) rest += scale;
  __int128 rounded = whole - rest;
  const bool odd = (rounded / scale) % 2 != 0;
  if (rest * 2 > scale || (rest * 2 == scale && odd)) rounded += scale;
  if (rounded > INT64_MAX || rounded < INT64_MIN) return TemplateError("integer result too large");
  return Value::Int(static_cast<int64_t>(rounded), untrusted);
}

}  // namespace paceline::model
