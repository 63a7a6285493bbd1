// Text formatting: "%" and str.format.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "model/chat_template/concat.h"
#include "model/chat_template/format_value.h"
#include "model/chat_template/operators.h"
#include "model/chat_template/str_methods.h"
#include "model/chat_template/unicode.h"
#include "model/chat_template/value_text.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

// Reads "{" field "}" replacement text: str.format.
class Formatter {
 public:
  Formatter(Context& context, const Text& format, CallArgs& args)
      : context_(context), format_(format), args_(args) {}

  absl::StatusOr<Value> Run() {
    TextBuilder out;
    RETURN_IF_ERROR(Expand(0, format_.size(), 2, &out));
    RETURN_IF_ERROR(context_.ChargeText(out.size()));
    return context_.heap().Str(std::move(out));
  }

 private:
  // Appends bytes [pos, end) of the format with their fields replaced.
  absl::Status Expand(size_t pos, size_t end, int nesting, TextBuilder* out) {
    if (nesting == 0) return TemplateError("Max string recursion exceeded");
    const std::string& f = format_.bytes;
    while (pos < end) {
      size_t brace = std::min(f.find_first_of("{}", pos), end);
      out->Append(format_, pos, brace);
      if (brace == end) break;
      if (brace + 1 < end && f[brace + 1] == f[brace]) {
        out->Append(format_, brace, brace + 1);
        pos = brace + 2;
        continue;
      }
      if (f[brace] == '}') return TemplateError("Single '}' encountered in format string");
      size_t close = brace + 1;
      for (int depth = 1; close < end; ++close) {
        depth += f[close] == '{' ? 1 : f[close] == '}' ? -1 : 0;
        if (depth == 0) break;
      }
      if (close >= end) return TemplateError("expected '}' before end of string");
      RETURN_IF_ERROR(Field(brace + 1, close, nesting, out));
      RETURN_IF_ERROR(context_.ChargeText(out->size()));
      pos = close + 1;
    }
    return absl::OkStatus();
  }

  absl::Status Field(size_t begin, size_t end, int nesting, TextBuilder* out) {
    const std::string& f = format_.bytes;
    size_t name_end = begin;
    for (bool in_brackets = false; name_end < end; ++name_end) {
      if (f[name_end] == '[') in_brackets = true;
      if (f[name_end] == ']') in_brackets = false;
      if (!in_brackets && (f[name_end] == '!' || f[name_end] == ':')) break;
    }
    ASSIGN_OR_RETURN(Value value, Lookup(f.substr(begin, name_end - begin)));
    size_t pos = name_end;
    if (pos < end && f[pos] == '!') {
      const char conversion = pos + 1 < end ? f[pos + 1] : '\0';
      TextBuilder text;
      if (conversion == 's') {
        RETURN_IF_ERROR(AppendStr(context_, value, &text));
      } else if (conversion == 'r' || conversion == 'a') {
        RETURN_IF_ERROR(AppendRepr(context_, value, &text));
      } else {
        return TemplateError("Unknown conversion specifier");
      }
      value = context_.heap().Str(std::move(text));
      pos += 2;
    }
    if (pos < end && f[pos] != ':') return TemplateError("expected ':' after conversion specifier");
    TextBuilder spec_text;
    if (pos < end) RETURN_IF_ERROR(Expand(pos + 1, end, nesting - 1, &spec_text));
    if (spec_text.size() == 0) return AppendStr(context_, value, out);
    ASSIGN_OR_RETURN(const FormatSpec spec, ParseSpec(spec_text.text()));
    ASSIGN_OR_RETURN(const Value formatted, FormatValue(context_, value, spec));
    return AppendStr(context_, formatted, out);
  }

  absl::StatusOr<Value> Lookup(std::string_view name) {
    const size_t first_end = std::min(name.find_first_of(".["), name.size());
    const std::string_view first = name.substr(0, first_end);
    if (first.empty() && !name.empty()) {
      return TemplateError("a format field with a suffix needs a name or number");
    }
    ASSIGN_OR_RETURN(Value value, Argument(first));
    for (size_t pos = first_end; pos < name.size();) {
      if (name[pos] == '.') {
        const size_t end = std::min(name.find_first_of(".[", pos + 1), name.size());
        if (end == pos + 1) return TemplateError("Empty attribute in format string");
        ASSIGN_OR_RETURN(value, GetAttr(context_, value, name.substr(pos + 1, end - pos - 1)));
        pos = end;
      } else if (name[pos] == '[') {
        const size_t end = name.find(']', pos);
        if (end == name.npos) return TemplateError("Missing ']' in format string");
        ASSIGN_OR_RETURN(value, Item(value, name.substr(pos + 1, end - pos - 1)));
        pos = end + 1;
      } else {
        return TemplateError("Only '.' or '[' may follow ']' in format field specifier");
      }
    }
    return value;
  }

  absl::StatusOr<Value> Item(const Value& value, std::string_view key) {
    if (key.empty()) return TemplateError("Empty attribute in format string");
    int64_t index = 0;
    const auto parsed = std::from_chars(key.data(), key.data() + key.size(), index);
    if (parsed.ec == std::errc() && parsed.ptr == key.data() + key.size()) {
      return GetItem(context_, value, Value::Int(index));
    }
    return GetItem(context_, value, context_.heap().Str(std::string(key)));
  }

  absl::StatusOr<Value> Argument(std::string_view name) {
    size_t index = 0;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), index);
    const bool numbered = parsed.ec == std::errc() && parsed.ptr == name.data() + name.size();
    if (name.empty() || numbered) {
      if ((name.empty() && manual_) || (!name.empty() && next_ > 0)) {
        return TemplateError("cannot switch between manual and automatic field numbering");
      }
      if (name.empty()) {
        index = next_++;
      } else {
        manual_ = true;
      }
      if (index >= args_.positional.size()) {
        return TemplateError("Replacement index out of range for positional args tuple");
      }
      return args_.positional[index];
    }
    for (const auto& [other, value] : args_.named) {
      if (other == name) return value;
    }
    return TemplateError("a name in the format string is not among the arguments");
  }

  // [[fill]align][sign][#][0][width][grouping][.precision][type]
  static absl::StatusOr<FormatSpec> ParseSpec(const Text& text) {
    const std::string& s = text.bytes;
    FormatSpec spec;
    size_t pos = 0;
    const auto is_align = [&s](size_t at) {
      return at < s.size() && std::string_view("<>=^").find(s[at]) != std::string_view::npos;
    };
    const auto number = [&s, &pos](int* value) {
      const auto parsed = std::from_chars(s.data() + pos, s.data() + s.size(), *value);
      if (parsed.ec == std::errc::invalid_argument) return true;
      pos = static_cast<size_t>(parsed.ptr - s.data());
      return parsed.ec == std::errc() && *value >= 0;
    };
    const size_t first = DecodeCodePoint(s, 0).bytes;
    if (is_align(first)) {
      TextBuilder fill;
      fill.Append(text, 0, first);
      spec.fill = std::move(fill).Take();
      spec.align = s[first];
      pos = first + 1;
    } else if (is_align(0)) {
      spec.align = s[pos++];
    }
    if (pos < s.size() && (s[pos] == '+' || s[pos] == '-' || s[pos] == ' ')) spec.sign = s[pos++];
    if (pos < s.size() && s[pos] == '#') {
      spec.alternate = true;
      ++pos;
    }
    if (pos < s.size() && s[pos] == '0' && spec.align == 0) {
      spec.fill.bytes = "0";
      spec.align = '=';
      ++pos;
    }
    int width = 0;
    if (pos < s.size() && s[pos] != '-' && !number(&width)) {
      return TemplateError("Too many decimal digits in format string");
    }
    spec.width = static_cast<size_t>(width);
    if (pos < s.size() && (s[pos] == ',' || s[pos] == '_')) spec.grouping = s[pos++];
    if (pos < s.size() && s[pos] == '.') {
      ++pos;
      if (pos >= s.size() || s[pos] < '0' || s[pos] > '9' || !number(&spec.precision)) {
        return TemplateError("Format specifier missing precision");
      }
    }
    if (pos < s.size()) spec.type = s[pos++];
    if (pos < s.size()) return TemplateError("Invalid format specifier");
    return spec;
  }

  Context& context_;
  const Text& format_;
  CallArgs& args_;
  size_t next_ = 0;
  bool manual_ = false;
};

// What "%" takes for a mapping, of which not everything need be used: all that has items.
bool IsMappingForFormat(const Value& value) {
  return value.IsDict() || value.IsUndefined() ||
         (value.IsSeq() &&
          (value.seq().type == SeqType::kList || value.seq().type == SeqType::kRange));
}

// Reads "%" conversions.
class PercentFormatter {
 public:
  PercentFormatter(Context& context, const Text& format, const Value& args)
      : context_(context), format_(format), args_(args) {
    is_tuple_ = args.IsSeq() && args.seq().type == SeqType::kTuple;
  }

  absl::StatusOr<Value> Run() {
    const std::string& f = format_.bytes;
    TextBuilder out;
    for (size_t pos = 0; pos < f.size();) {
      const size_t percent = std::min(f.find('%', pos), f.size());
      out.Append(format_, pos, percent);
      pos = percent;
      if (pos == f.size()) break;
      ++pos;
      RETURN_IF_ERROR(Conversion(&pos, &out));
      RETURN_IF_ERROR(context_.ChargeText(out.size()));
    }
    const bool all_used = is_tuple_ ? next_ >= args_.seq().items.size()
                                    : (next_ > 0 || IsMappingForFormat(args_) || named_);
    if (!all_used) return TemplateError("not all arguments converted during string formatting");
    return context_.heap().Str(std::move(out));
  }

 private:
  absl::StatusOr<Value> Next() {
    if (is_tuple_) {
      if (next_ >= args_.seq().items.size()) {
        return TemplateError("not enough arguments for format string");
      }
      return args_.seq().items[next_++];
    }
    if (next_++ > 0) return TemplateError("not enough arguments for format string");
    return args_;
  }

  absl::Status Number(size_t* pos, int64_t* value) {
    const std::string& f = format_.bytes;
    if (*pos < f.size() && f[*pos] == '*') {
      ++*pos;
      ASSIGN_OR_RETURN(const Value star, Next());
      if (!star.IsInteger()) return TemplateError("* wants int");
      *value = star.AsInt();
      return absl::OkStatus();
    }
    for (*value = 0; *pos < f.size() && f[*pos] >= '0' && f[*pos] <= '9'; ++*pos) {
      *value = *value * 10 + (f[*pos] - '0');
      if (*value > INT32_MAX) return TemplateError("width too big");
    }
    return absl::OkStatus();
  }

  absl::Status Conversion(size_t* pos, TextBuilder* out) {
    const std::string& f = format_.bytes;
    Value value;
    bool has_value = false;
    if (*pos < f.size() && f[*pos] == '(') {
      if (!args_.IsDict()) return TemplateError("format requires a mapping");
      const size_t close = f.find(')', *pos);
      if (close == std::string::npos) return TemplateError("incomplete format key");
      const Value* found = args_.dict().Find(f.substr(*pos + 1, close - *pos - 1));
      if (found == nullptr) return TemplateError("a key of the format string is missing");
      value = *found;
      has_value = true;
      named_ = true;
      *pos = close + 1;
    }
    FormatSpec spec;
    bool zero = false;
    for (; *pos < f.size(); ++*pos) {
      const char c = f[*pos];
      if (c == '-') {
        spec.align = '<';
      } else if (c == '+') {
        spec.sign = '+';
      } else if (c == ' ') {
        if (spec.sign == '-') spec.sign = ' ';
      } else if (c == '0') {
        zero = true;
      } else if (c == '#') {
        spec.alternate = true;
      } else {
        break;
      }
    }
    int64_t number = 0;
    RETURN_IF_ERROR(Number(pos, &number));
    if (number < 0) {
      spec.align = '<';
      number = number == INT64_MIN ? INT64_MAX : -number;
    }
    spec.width = static_cast<size_t>(number);
    if (*pos < f.size() && f[*pos] == '.') {
      ++*pos;
      RETURN_IF_ERROR(Number(pos, &number));
      spec.precision = static_cast<int>(std::clamp<int64_t>(number, 0, INT32_MAX));
    }
    while (*pos < f.size() && (f[*pos] == 'l' || f[*pos] == 'h' || f[*pos] == 'L')) ++*pos;
    if (*pos >= f.size()) return TemplateError("incomplete format");
    const char type = f[(*pos)++];
    if (type == '%') {
      out->Append('%');
      return absl::OkStatus();
    }
    if (!has_value) {
      ASSIGN_OR_RETURN(value, Next());
    }
    if (zero && spec.align == 0) {
      spec.align = '=';
      spec.fill.bytes = "0";
    }
    return One(type, value, spec, out);
  }

  absl::Status One(char type, Value value, FormatSpec spec, TextBuilder* out) {
    if (type == 's' || type == 'r' || type == 'a') {
      TextBuilder text;
      RETURN_IF_ERROR(type == 's' ? AppendStr(context_, value, &text)
                                  : AppendRepr(context_, value, &text));
      value = context_.heap().Str(std::move(text));
      if (spec.align != '<') spec.align = '>';
      spec.fill = Text();
      spec.type = 's';
    } else if (type == 'c' && value.IsStr()) {
      if (value.str().num_code_points != 1) return TemplateError("%c requires int or char");
      spec.align = spec.align == '<' ? '<' : '>';
      spec.fill = Text();
    } else if (value.IsUndefined() || !value.IsNumber()) {
      return TemplateError(Concat(
          "%", std::string(1, type), " format: a real number is required, not ", TypeName(value)));
    } else if (type == 'd' || type == 'i' || type == 'u') {
      if (!value.IsInteger()) {
        const double d = std::trunc(value.AsDouble());
        if (!(std::fabs(d) < 9.2e18)) return TemplateError("cannot convert float to integer");
        value = Value::Int(static_cast<int64_t>(d), value.untrusted_number());
      }
      return Integer(value, spec, out);
    } else if (type == 'x' || type == 'X' || type == 'o') {
      if (!value.IsInteger()) {
        return TemplateError("%x format: an integer is required, not float");
      }
      spec.type = type;
      return Integer(value, spec, out);
    } else if (IsFloatType(type) && type != '%') {
      spec.type = type;
      value = Value::Float(value.AsDouble(), value.untrusted_number());
    } else if (type == 'c') {
      spec.type = 'c';
      spec.precision = -1;
    } else {
      return TemplateError(Concat("unsupported format character '", std::string(1, type), "'"));
    }
    ASSIGN_OR_RETURN(const Value formatted, FormatValue(context_, value, spec));
    return AppendStr(context_, formatted, out);
  }

  // Here a precision is the least number of digits.
  absl::Status Integer(const Value& value, FormatSpec spec, TextBuilder* out) {
    const int least = std::exchange(spec.precision, -1);
    std::string sign;
    std::string digits;
    const Value number = value.Is(Kind::kBool) ? Value::Int(value.AsInt()) : value;
    RETURN_IF_ERROR(FormatNumber(number, spec, &sign, &digits));
    if (least > kMaxPrecision) return TemplateError("precision too big");
    if (least > static_cast<int>(digits.size())) {
      digits.insert(0, static_cast<size_t>(least) - digits.size(), '0');
    }
    if (spec.align == '=' && spec.width > sign.size() + digits.size()) {
      RETURN_IF_ERROR(context_.ChargeText(spec.width));
      digits.insert(0, spec.width - sign.size() - digits.size(), '0');
    }
    TextBuilder text;
    text.Append(sign + digits, value.untrusted_number());
    ASSIGN_OR_RETURN(const Value padded,
                     PadTo(context_, context_.heap().Str(std::move(text)), spec, '>'));
    return AppendStr(context_, padded, out);
  }

  Context& context_;
  const Text& format_;
  const Value& args_;
  bool is_tuple_ = false;
  bool named_ = false;
  size_t next_ = 0;
};

}  // namespace

absl::StatusOr<Value> StrFormat(Context& context, const Value& self, CallArgs& args) {
  return Formatter(context, self.text(), args).Run();
}

absl::StatusOr<Value> FormatPercent(Context& context, const Text& format, const Value& args) {
  return PercentFormatter(context, format, args).Run();
}

}  // namespace paceline::model
