#include "model/chat_template/lexer.h"

#include <array>
#include <charconv>

#include "model/chat_template/concat.h"
#include "model/chat_template/unicode.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

bool IsAsciiDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}
bool IsNameChar(char c) { return IsNameStart(c) || IsAsciiDigit(c); }

// \r\n and \r become \n, and one newline at the very end is dropped.
std::string NormalizeNewlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out.push_back('\n');
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out.push_back(source[i]);
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (pos_ < source_.size()) RETURN_IF_ERROR(Next());
    Emit(TokenType::kEnd);
    return std::move(tokens_);
  }

 private:
  bool At(size_t pos, std::string_view text) const {
    return source_.compare(pos, text.size(), text) == 0;
  }

  Token& Emit(TokenType type) {
    Token& token = tokens_.emplace_back();
    token.type = type;
    token.line = line_;
    return token;
  }

  void Advance(size_t to) {
    for (; pos_ < to; ++pos_) line_ += source_[pos_] == '\n';
  }

  void SkipSpace() {
    while (pos_ < source_.size()) {
      const CodePoint c = DecodeCodePoint(source_, pos_);
      if (!IsSpace(c.value)) return;
      Advance(pos_ + c.bytes);
    }
  }

  size_t SpaceFrom(size_t pos) const {
    while (pos < source_.size()) {
      const CodePoint c = DecodeCodePoint(source_, pos);
      if (!IsSpace(c.value)) break;
      pos += c.bytes;
    }
    return pos;
  }

  // One stretch of literal text and the tag that ends it.
  absl::Status Next() {
    size_t tag = pos_;
    while (tag < source_.size() &&
           !(source_[tag] == '{' && tag + 1 < source_.size() &&
             (source_[tag + 1] == '{' || source_[tag + 1] == '%' || source_[tag + 1] == '#'))) {
      ++tag;
    }
    if (tag >= source_.size()) {
      EmitData(pos_, source_.size());
      return absl::OkStatus();
    }
    const char type = source_[tag + 1];
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    const bool has_sign = sign == '-' || sign == '+';
    EmitData(pos_, StripBefore(pos_, tag, has_sign ? sign : '\0', type != '{'));
    Advance(tag);
    const size_t inside = tag + 2 + (has_sign ? 1 : 0);
    if (type == '#') return Comment(inside);
    if (type == '%' && RawBegin(inside)) return Raw();
    Emit(type == '{' ? TokenType::kVariableBegin : TokenType::kBlockBegin);
    Advance(inside);
    return Tag(type == '{' ? '}' : '%');
  }

  // The end of literal text [begin, end) once the whitespace rules of the following tag are
  // applied.
  size_t StripBefore(size_t begin, size_t end, char sign, bool lstrip) const {
    if (sign == '-') {
      while (end > begin) {
        const size_t previous = PreviousCodePoint(source_, end);
        if (!IsSpace(DecodeCodePoint(source_, previous).value)) break;
        end = previous;
      }
      return end;
    }
    if (sign == '+' || !lstrip) return end;
    size_t line = end;
    while (line > begin && source_[line - 1] != '\n') --line;
    if (line == begin && !line_starting_) return end;
    size_t space = line;
    while (space < end) {
      const CodePoint c = DecodeCodePoint(source_, space);
      if (!IsSpace(c.value)) return end;
      space += c.bytes;
    }
    return line;
  }

  void EmitData(size_t begin, size_t end) {
    if (end > begin) Emit(TokenType::kData).text = source_.substr(begin, end - begin);
    Advance(end);
  }

  // Moves past the end of a block or comment and the newline that trim_blocks eats.
  void AfterBlock(size_t end, bool strip) {
    size_t to = end;
    if (strip) {
      to = SpaceFrom(end);
    } else if (to < source_.size() && source_[to] == '\n' && source_[end - 3] != '+') {
      ++to;
    }
    line_starting_ = to > 0 && source_[to - 1] == '\n';
    Advance(to);
  }

  absl::Status Comment(size_t inside) {
    if (inside == source_.size()) {  // jinja2 lets this one go
      Advance(inside);
      return absl::OkStatus();
    }
    const size_t close = source_.find("#}", inside);
    if (close == std::string::npos) return SyntaxError(line_, "Missing end of comment tag");
    AfterBlock(close + 2, close > inside && source_[close - 1] == '-');
    return absl::OkStatus();
  }

  // Whether a raw tag starts at `inside` (just after "{%" and its sign); if so moves past it.
  bool RawBegin(size_t inside) {
    size_t pos = SpaceFrom(inside);
    if (!At(pos, "raw")) return false;
    pos = SpaceFrom(pos + 3);
    if (At(pos, "-%}")) {
      Advance(SpaceFrom(pos + 3));
      return true;
    }
    if (!At(pos, "%}")) return false;
    Advance(pos + 2);
    line_starting_ = false;
    return true;
  }

  absl::Status Raw() {
    for (size_t tag = source_.find("{%", pos_); tag != std::string::npos;
         tag = source_.find("{%", tag + 1)) {
      const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
      const bool has_sign = sign == '-' || sign == '+';
      size_t end = SpaceFrom(tag + 2 + (has_sign ? 1 : 0));
      if (!At(end, "endraw")) continue;
      end = SpaceFrom(end + 6);
      const bool end_sign = At(end, "-%}") || At(end, "+%}");
      if (!end_sign && !At(end, "%}")) continue;
      EmitData(pos_, StripBefore(pos_, tag, has_sign ? sign : '\0', true));
      AfterBlock(end + (end_sign ? 3 : 2), end_sign && source_[end] == '-');
      return absl::OkStatus();
    }
    return SyntaxError(line_, "Missing end of raw directive");
  }

  // The inside of {{ }} (close = '}') or {% %} (close = '%'), with its end.
  absl::Status Tag(char close) {
    std::string open_brackets;
    for (;;) {
      SkipSpace();
      if (pos_ >= source_.size()) return absl::OkStatus();  // the parser reports the missing end
      if (open_brackets.empty()) {
        const char sign = source_[pos_];
        const size_t mark = pos_ + (sign == '-' || (sign == '+' && close == '%') ? 1 : 0);
        if (mark + 1 < source_.size() && source_[mark] == close && source_[mark + 1] == '}') {
          Emit(close == '}' ? TokenType::kVariableEnd : TokenType::kBlockEnd);
          if (close == '%') {
            AfterBlock(mark + 2, sign == '-');
          } else {
            const size_t end = sign == '-' ? SpaceFrom(mark + 2) : mark + 2;
            line_starting_ = source_[end - 1] == '\n';
            Advance(end);
          }
          return absl::OkStatus();
        }
      }
      RETURN_IF_ERROR(OneToken(&open_brackets));
    }
  }

  absl::Status OneToken(std::string* open_brackets) {
    const char c = source_[pos_];
    if (IsAsciiDigit(c)) return Number();
    if (IsNameStart(c)) {
      size_t end = pos_;
      while (end < source_.size() && IsNameChar(source_[end])) ++end;
      Emit(TokenType::kName).text = source_.substr(pos_, end - pos_);
      Advance(end);
      return absl::OkStatus();
    }
    if (c == '\'' || c == '"') return String(c);
    return Operator(open_brackets);
  }

  size_t Digits(size_t pos) const {
    while (pos < source_.size() &&
           (IsAsciiDigit(source_[pos]) ||
            (source_[pos] == '_' && pos + 1 < source_.size() && IsAsciiDigit(source_[pos + 1])))) {
      ++pos;
    }
    return pos;
  }

  absl::Status Number() {
    const bool after_dot = pos_ > 0 && source_[pos_ - 1] == '.';
    if (source_[pos_] == '0' && pos_ + 1 < source_.size()) {
      const char base = static_cast<char>(source_[pos_ + 1] | 0x20);
      const int radix = base == 'x' ? 16 : base == 'o' ? 8 : base == 'b' ? 2 : 0;
      if (radix != 0) {
        size_t end = pos_ + 2;
        while (end < source_.size() &&
               (isxdigit(static_cast<unsigned char>(source_[end])) != 0 || source_[end] == '_')) {
          ++end;
        }
        return Integer(pos_ + 2, end, radix);
      }
    }
    const size_t whole = Digits(pos_);
    size_t end = whole;
    if (!after_dot) {
      if (end + 1 < source_.size() && source_[end] == '.' && IsAsciiDigit(source_[end + 1])) {
        end = Digits(end + 1);
      }
      if (end < source_.size() && (source_[end] | 0x20) == 'e') {
        size_t exponent = end + 1;
        if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) {
          ++exponent;
        }
        if (exponent < source_.size() && IsAsciiDigit(source_[exponent])) end = Digits(exponent);
      }
    }
    if (end == whole) return Integer(pos_, whole, 10);
    std::string digits;
    for (size_t i = pos_; i < end; ++i) {
      if (source_[i] != '_') digits.push_back(source_[i]);
    }
    Token& token = Emit(TokenType::kFloat);
    // Python reads an overflowing literal as inf and an underflowing one as 0.
    token.float_value = strtod(digits.c_str(), nullptr);
    Advance(end);
    return absl::OkStatus();
  }

  absl::Status Integer(size_t begin, size_t end, int radix) {
    std::string digits;
    for (size_t i = begin; i < end; ++i) {
      if (source_[i] != '_') digits.push_back(source_[i]);
    }
    if (radix == 10 && digits.size() > 1 && digits[0] == '0' &&
        digits.find_first_not_of('0') != std::string::npos) {
      return SyntaxError(line_, "an integer may not start with zero");
    }
    Token& token = Emit(TokenType::kInt);
    const auto [last, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), token.int_value, radix);
    if (error == std::errc::result_out_of_range) {
      return SyntaxError(line_, "integer literal too large");
    }
    if (error != std::errc() || last != digits.data() + digits.size()) {
      return SyntaxError(line_, "malformed number");
    }
    Advance(end);
    return absl::OkStatus();
  }

  absl::Status String(char quote) {
    size_t end = pos_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) {
      return SyntaxError(line_, Concat("unexpected char '", std::string(1, quote), "'"));
    }
    std::string value;
    for (size_t i = pos_ + 1; i < end;) {
      if (source_[i] != '\\') {
        value.push_back(source_[i++]);
      } else {
        RETURN_IF_ERROR(Escape(&i, end, &value));
      }
    }
    Emit(TokenType::kString).text = std::move(value);
    Advance(end + 1);
    return absl::OkStatus();
  }

  // One backslash escape at *i, as Python's string literals have them.
  absl::Status Escape(size_t* i, size_t end, std::string* out) {
    const char c = source_[*i + 1];
    *i += 2;
    static constexpr std::string_view kFrom = "abfnrtv\\'\"";
    static constexpr std::string_view kTo = "\a\b\f\n\r\t\v\\'\"";
    if (const size_t at = kFrom.find(c); at != std::string_view::npos) {
      out->push_back(kTo[at]);
      return absl::OkStatus();
    }
    if (c == '\n') return absl::OkStatus();
    if (c >= '0' && c <= '7') {
      int value = c - '0';
      for (int n = 1; n < 3 && *i < end && source_[*i] >= '0' && source_[*i] <= '7'; ++n) {
        value = value * 8 + (source_[(*i)++] - '0');
      }
      AppendUtf8(value, out);
      return absl::OkStatus();
    }
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits == 0) {
      if (c == 'N') return SyntaxError(line_, "named characters are not supported");
      out->push_back('\\');
      out->push_back(c);
      return absl::OkStatus();
    }
    uint32_t value = 0;
    const char* first = source_.data() + *i;
    if (*i + digits > end ||
        std::from_chars(first, first + digits, value, 16).ptr != first + digits ||
        value > 0x10FFFF) {
      return SyntaxError(line_, "truncated or invalid character escape");
    }
    AppendUtf8(static_cast<int32_t>(value), out);
    *i += digits;
    return absl::OkStatus();
  }

  absl::Status Operator(std::string* open_brackets) {
    static constexpr std::array<std::string_view, 26> kOperators = {
        "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
        "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};
    for (const std::string_view op : kOperators) {
      if (!At(pos_, op)) continue;
      if (op == "(" || op == "[" || op == "{") {
        open_brackets->push_back(op == "(" ? ')' : op == "[" ? ']' : '}');
      } else if (op == ")" || op == "]" || op == "}") {
        if (open_brackets->empty()) {
          return SyntaxError(line_, Concat("unexpected '", op, "'"));
        }
        if (open_brackets->back() != op[0]) {
          return SyntaxError(
              line_,
              Concat(
                  "unexpected '", op, "', expected '", std::string(1, open_brackets->back()), "'"));
        }
        open_brackets->pop_back();
      }
      Emit(TokenType::kOperator).text = std::string(op);
      Advance(pos_ + op.size());
      return absl::OkStatus();
    }
    return SyntaxError(line_, Concat("unexpected char '", std::string(1, source_[pos_]), "'"));
  }

  const std::string source_;
  size_t pos_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

absl::Status SyntaxError(int line, std::string_view message) {
  return absl::InvalidArgumentError(Concat("line ", line, ": ", message));
}

absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source) {
  return Lexer(NormalizeNewlines(source)).Run();
}

}  // namespace paceline::model
