#include "model/chat_template/format_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "absl/strings/str_format.h"
#include "model/chat_template/concat.h"
#include "model/chat_template/operators.h"
#include "model/chat_template/str_methods.h"
#include "model/chat_template/unicode.h"
#include "model/chat_template/value_text.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

// The digits of `value` in `radix`, without sign.
std::string Digits(int64_t value, int radix) {
  char buffer[72];
  const uint64_t magnitude =
      value < 0 ? uint64_t{0} - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), magnitude, radix);
  return std::string(buffer, end.ptr);
}

void Group(std::string* digits, char separator, size_t every) {
  const size_t whole = std::min(digits->find_first_not_of("0123456789abcdef"), digits->size());
  for (size_t at = whole; at > every;) {
    at -= every;
    digits->insert(at, 1, separator);
  }
}

std::string Upper(std::string text) {
  for (char& c : text) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c;
  return text;
}

// The magnitude of a float in one of the types e f g % (or 0: repr).
std::string FloatDigits(double value, const FormatSpec& spec) {
  const double magnitude = std::fabs(value);
  const char type = static_cast<char>(spec.type | 0x20);
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return spec.type == '%' ? "inf%" : "inf";
  const int precision = spec.precision < 0 ? 6 : spec.precision;
  if (spec.type == '%') return absl::StrFormat("%.*f%%", precision, magnitude * 100);
  if (spec.type == 0) {
    if (spec.precision < 0) return FloatRepr(magnitude);
    std::string text = absl::StrFormat("%.*g", std::max(precision, 1), magnitude);
    if (text.find_first_not_of("0123456789") == std::string::npos) text += ".0";
    return text;
  }
  if (type == 'f') return absl::StrFormat("%.*f", precision, magnitude);
  if (type == 'e') return absl::StrFormat("%.*e", precision, magnitude);
  return spec.alternate ? absl::StrFormat("%#.*g", std::max(precision, 1), magnitude)
                        : absl::StrFormat("%.*g", std::max(precision, 1), magnitude);
}

}  // namespace

bool IsFloatType(char type) {
  return type != 0 && std::string_view("eEfFgG%").find(type) != std::string_view::npos;
}

absl::Status FormatNumber(const Value& value,
                          const FormatSpec& spec,
                          std::string* sign,
                          std::string* digits) {
  const bool as_float = !value.IsInteger() || IsFloatType(spec.type);
  size_t every = 3;
  if (as_float) {
    if (spec.type != 0 && spec.type != 'n' && !IsFloatType(spec.type)) {
      return TemplateError(Concat(
          "Unknown format code '", std::string(1, spec.type), "' for object of type 'float'"));
    }
    const double d = value.AsDouble();
    *digits = FloatDigits(d, spec);
    if (std::signbit(d) && !std::isnan(d)) *sign = "-";
  } else {
    if (spec.precision >= 0) {
      return TemplateError("Precision not allowed in integer format specifier");
    }
    if (value.AsInt() < 0) *sign = "-";
    switch (spec.type) {
      case 'x':
      case 'X':
        *digits = Digits(value.AsInt(), 16);
        every = 4;
        break;
      case 'o':
        *digits = Digits(value.AsInt(), 8);
        every = 4;
        break;
      case 'b':
        *digits = Digits(value.AsInt(), 2);
        every = 4;
        break;
      case 'c':
        if (value.AsInt() < 0 || value.AsInt() > 0x10FFFF) {
          return TemplateError("%c arg not in range(0x110000)");
        }
        sign->clear();
        AppendUtf8(static_cast<int32_t>(value.AsInt()), digits);
        return absl::OkStatus();
      case 0:
      case 'd':
      case 'n':
        *digits = Digits(value.AsInt(), 10);
        break;
      default:
        return TemplateError(Concat(
            "Unknown format code '", std::string(1, spec.type), "' for object of type 'int'"));
    }
  }
  if (sign->empty() && spec.sign != '-') *sign = std::string(1, spec.sign);
  if (spec.grouping != 0) Group(digits, spec.grouping, every);
  if (!as_float && spec.alternate) {
    if (spec.type == 'x' || spec.type == 'X') *sign += "0x";
    if (spec.type == 'o') *sign += "0o";
    if (spec.type == 'b') *sign += "0b";
  }
  if (spec.type >= 'A' && spec.type <= 'Z') {
    *digits = Upper(*digits);
    *sign = Upper(*sign);
  }
  return absl::OkStatus();
}

absl::StatusOr<Value> PadTo(Context& context,
                            const Value& text,
                            const FormatSpec& spec,
                            char default_align) {
  const size_t length = text.str().num_code_points;
  if (spec.width <= length) return text;
  Text fill = spec.fill;
  if (fill.bytes.empty()) fill.bytes = " ";
  const size_t space = spec.width - length;
  const char align = spec.align == 0 ? default_align : spec.align;
  const size_t left = align == '<' ? 0 : align == '^' ? space / 2 : space;
  return Pad(context, text, fill, left, space - left);
}

absl::StatusOr<Value> FormatValue(Context& context, const Value& value, const FormatSpec& spec) {
  if (spec.precision > kMaxPrecision && !value.IsStr()) return TemplateError("precision too big");
  if (value.IsStr()) {
    if (spec.type != 0 && spec.type != 's') {
      return TemplateError(
          Concat("Unknown format code '", std::string(1, spec.type), "' for object of type 'str'"));
    }
    if (spec.align == '=' && spec.fill.bytes != "0") {
      return TemplateError("'=' alignment not allowed in string format specifier");
    }
    Value text = value;
    if (spec.precision >= 0) {
      ASSIGN_OR_RETURN(
          text, Slice(context, value, Value::None(), Value::Int(spec.precision), Value::None()));
    }
    FormatSpec padding = spec;
    if (padding.align == '=') padding.align = '<';
    return PadTo(context, text, padding, '<');
  }
  if (!value.IsNumber() || (value.Is(Kind::kBool) && spec.type == 's')) {
    return TemplateError(
        Concat("unsupported format string passed to ", TypeName(value), ".__format__"));
  }
  std::string sign;
  std::string digits;
  RETURN_IF_ERROR(FormatNumber(value, spec, &sign, &digits));
  if (spec.align == '=') {
    const size_t length = CountCodePoints(sign) + CountCodePoints(digits);
    if (spec.width > length) {
      RETURN_IF_ERROR(context.ChargeText(spec.width * std::max<size_t>(1, spec.fill.size())));
      const std::string fill = spec.fill.bytes.empty() ? " " : spec.fill.bytes;
      for (size_t i = length; i < spec.width; ++i) sign += fill;
    }
  }
  TextBuilder text;
  text.Append(sign + digits, value.untrusted_number());
  return PadTo(context, context.heap().Str(std::move(text)), spec, '>');
}

}  // namespace paceline::model
