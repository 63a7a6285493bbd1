// Filters on text.
#include <algorithm>

#include "absl/strings/str_format.h"
#include "model/chat_template/concat.h"
#include "model/chat_template/filters.h"
#include "model/chat_template/html.h"
#include "model/chat_template/operators.h"
#include "model/chat_template/str_methods.h"
#include "model/chat_template/unicode.h"
#include "model/chat_template/value_text.h"
#include "model/chat_template/wrap.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

// The filter that first makes a string of its value and then is a str method.
template <NativeFn kMethod>
absl::StatusOr<Value> OnText(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Value text, ToStr(context, self));
  return kMethod(context, text, args);
}

absl::Status NeedStr(const Value& value, std::string_view filter) {
  if (value.IsUndefined()) return UndefinedError(value);
  if (value.IsStr()) return absl::OkStatus();
  return TemplateError(Concat(filter, " wants a string, not ", TypeName(value)));
}

absl::StatusOr<Value> Center(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("center", args, {"width"}));
  ASSIGN_OR_RETURN(const int64_t width, bound.Int(0, 80));
  ASSIGN_OR_RETURN(const Value text, ToStr(context, self));
  CallArgs method_args;
  method_args.positional = {Value::Int(width)};
  return StrCenter(context, text, method_args);
}

absl::StatusOr<Value> Replace(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("replace", args, {"old", "new", "count"}, 2));
  ASSIGN_OR_RETURN(const Value text, ToStr(context, self));
  CallArgs method_args;
  for (size_t i = 0; i < 2; ++i) {
    ASSIGN_OR_RETURN(Value part, ToStr(context, *bound[i]));
    method_args.positional.push_back(std::move(part));
  }
  if (bound.Has(2) && !bound[2]->IsNone()) method_args.positional.push_back(*bound[2]);
  return StrReplace(context, text, method_args);
}

// Capital at the start of each word, where words start after space, -, (, {, [ and <.
absl::StatusOr<Value> Title(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("title", args, {}).status());
  ASSIGN_OR_RETURN(const Value value, ToStr(context, self));
  const Text& text = value.text();
  RETURN_IF_ERROR(context.ChargeCharacters(text.size()));
  TextBuilder out;
  TrustCursor trust(text);
  bool starts = true;
  for (size_t pos = 0; pos < text.size();) {
    const CodePoint c = DecodeCodePoint(text.bytes, pos);
    const bool separator = IsSpace(c.value) || c.value == '-' || c.value == '(' || c.value == '{' ||
                           c.value == '[' || c.value == '<';
    if (separator || c.value < 0) {
      out.Append(text, pos, pos + c.bytes);
    } else {
      std::string mapped;
      starts ? AppendUpper(c.value, &mapped) : AppendLower(c.value, &mapped);
      out.Append(mapped, trust.Untrusted(pos, pos + c.bytes));
    }
    starts = separator;
    pos += c.bytes;
  }
  return context.heap().Str(std::move(out));
}

absl::StatusOr<Value> Indent(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("indent", args, {"width", "first", "blank"}));
  RETURN_IF_ERROR(NeedStr(self, "indent"));
  Text indent;
  if (bound.Has(0) && bound[0]->IsStr()) {
    indent = bound[0]->text();
  } else {
    ASSIGN_OR_RETURN(const int64_t width, bound.Int(0, 4));
    RETURN_IF_ERROR(context.ChargeText(static_cast<size_t>(std::max<int64_t>(width, 0))));
    indent.bytes.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  const bool first = bound.Bool(1, false);
  const bool blank = bound.Bool(2, false);
  TextBuilder with_newline;
  with_newline.Append(self.text());
  with_newline.Append("\n");
  const Text& text = with_newline.text();
  RETURN_IF_ERROR(context.ChargeCharacters(text.size()));
  TextBuilder out;
  bool is_first = true;
  for (const TextSpan& line : SplitLines(text, false)) {
    if (!is_first) out.Append("\n");
    if (is_first ? first : (blank || line.end > line.begin)) {
      RETURN_IF_ERROR(
          context.ChargeText(out.size() + indent.size() > context.limits().max_output_bytes
                                 ? out.size() + indent.size()
                                 : indent.size()));
      out.Append(indent);
    }
    out.Append(text, line.begin, line.end);
    is_first = false;
  }
  return context.heap().Str(std::move(out));
}

absl::StatusOr<Value> Truncate(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound,
                   Bound::Bind("truncate", args, {"length", "killwords", "end", "leeway"}));
  ASSIGN_OR_RETURN(const int64_t length, bound.Int(0, 255));
  ASSIGN_OR_RETURN(
      const int64_t leeway,
      bound.Has(3) && bound[3]->IsNone() ? absl::StatusOr<int64_t>(5) : bound.Int(3, 5));
  Value end = context.heap().Str("...");
  if (bound.Has(2)) end = *bound[2];
  if (!end.IsStr()) return TemplateError("truncate: end must be a string");
  const auto end_length = static_cast<int64_t>(end.str().num_code_points);
  if (length < end_length) return TemplateError("truncate: length is less than that of end");
  if (leeway < 0) return TemplateError("truncate: leeway is negative");
  ASSIGN_OR_RETURN(const int64_t size, Length(self));
  if (size <= length || size - leeway <= length) return self;
  RETURN_IF_ERROR(NeedStr(self, "truncate"));
  ASSIGN_OR_RETURN(
      Value kept,
      Slice(context, self, Value::None(), Value::Int(length - end_length), Value::None()));
  size_t cut = kept.text().size();
  if (!bound.Bool(1, false)) cut = std::min(kept.text().bytes.rfind(' '), cut);
  TextBuilder out;
  out.Append(kept.text(), 0, cut);
  out.Append(end.text());
  return context.heap().Str(std::move(out));
}

absl::StatusOr<Value> WordWrap(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(
      const Bound bound,
      Bound::Bind(
          "wordwrap", args, {"width", "break_long_words", "wrapstring", "break_on_hyphens"}));
  RETURN_IF_ERROR(NeedStr(self, "wordwrap"));
  ASSIGN_OR_RETURN(const int64_t width, bound.Int(0, 79));
  if (width <= 0) return TemplateError("wordwrap: width must be positive");
  Value separator = context.heap().Str("\n");
  if (bound.Has(2) && !bound[2]->IsNone()) separator = *bound[2];
  if (!separator.IsStr()) return TemplateError("wordwrap: wrapstring must be a string");
  RETURN_IF_ERROR(context.ChargeCharacters(self.text().size()));
  TextBuilder out;
  bool first = true;
  for (const TextSpan& line : SplitLines(self.text(), false)) {
    // An empty line is a paragraph without lines: it still takes part in the joining.
    std::vector<TextSpan> wrapped = WrapLine(
        self.text(), line, static_cast<size_t>(width), bound.Bool(1, true), bound.Bool(3, true));
    if (wrapped.empty()) wrapped.push_back({line.begin, line.begin});
    for (const TextSpan& piece : wrapped) {
      if (!first) RETURN_IF_ERROR(AppendStr(context, separator, &out));
      first = false;
      out.Append(self.text(), piece.begin, piece.end);
    }
  }
  RETURN_IF_ERROR(context.ChargeText(out.size()));
  return context.heap().Str(std::move(out));
}

absl::StatusOr<Value> WordCount(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("wordcount", args, {}).status());
  ASSIGN_OR_RETURN(const Value value, ToStr(context, self));
  RETURN_IF_ERROR(context.ChargeCharacters(value.text().size()));
  int64_t words = 0;
  bool in_word = false;
  for (size_t pos = 0; pos < value.text().size();) {
    const CodePoint c = DecodeCodePoint(value.view(), pos);
    const bool word = IsAlnum(c.value) || c.value == '_';
    words += word && !in_word ? 1 : 0;
    in_word = word;
    pos += c.bytes;
  }
  return Value::Int(words);
}

absl::StatusOr<Value> Format(Context& context, const Value& self, CallArgs& args) {
  if (!args.positional.empty() && !args.named.empty()) {
    return TemplateError("can't handle positional and keyword arguments at the same time");
  }
  ASSIGN_OR_RETURN(const Value text, ToStr(context, self));
  if (args.named.empty()) {
    return FormatPercent(context, text.text(), context.heap().Tuple(args.positional));
  }
  auto dict = std::make_shared<DictObject>();
  for (auto& [name, value] : args.named) dict->Set(context.heap().Str(name), value);
  return FormatPercent(context, text.text(), context.heap().Dict(std::move(dict)));
}

absl::StatusOr<Value> Escape(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("escape", args, {}).status());
  ASSIGN_OR_RETURN(const Value text, ToStr(context, self));
  if (text.str().markup) return text;
  RETURN_IF_ERROR(context.ChargeCharacters(text.text().size()));
  TextBuilder out;
  AppendHtmlEscaped(text.text(), &out);
  RETURN_IF_ERROR(context.ChargeText(out.size()));
  return context.heap().Str(std::move(out).Take(), true);
}

absl::StatusOr<Value> ForceEscape(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("forceescape", args, {}).status());
  ASSIGN_OR_RETURN(const Value text, ToStr(context, self));
  RETURN_IF_ERROR(context.ChargeCharacters(text.text().size()));
  TextBuilder out;
  AppendHtmlEscaped(text.text(), &out);
  RETURN_IF_ERROR(context.ChargeText(out.size()));
  return context.heap().Str(std::move(out).Take(), true);
}

absl::StatusOr<Value> Safe(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("safe", args, {}).status());
  ASSIGN_OR_RETURN(const Value text, ToStr(context, self));
  return context.heap().Str(text.text(), true);
}

// Without comments and tags, runs of space made one.
absl::StatusOr<Value> StripTags(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("striptags", args, {}).status());
  ASSIGN_OR_RETURN(const Value value, ToStr(context, self));
  const Text* text = &value.text();
  RETURN_IF_ERROR(context.ChargeCharacters(text->size()));
  TextBuilder without_comments;
  size_t pos = 0;
  for (;;) {
    const size_t open = text->bytes.find("<!--", pos);
    const size_t close = open == std::string::npos ? open : text->bytes.find("-->", open);
    if (close == std::string::npos) break;
    without_comments.Append(*text, pos, open);
    pos = close + 3;
  }
  without_comments.Append(*text, pos, text->size());
  text = &without_comments.text();
  TextBuilder plain;
  pos = 0;
  for (;;) {
    const size_t open = text->bytes.find('<', pos);
    const size_t close = open == std::string::npos ? open : text->bytes.find('>', open);
    if (close == std::string::npos) break;
    plain.Append(*text, pos, open);
    pos = close + 1;
  }
  plain.Append(*text, pos, text->size());
  const Value stripped = context.heap().Str(std::move(plain));
  CallArgs none;
  ASSIGN_OR_RETURN(const NativeFn split, absl::StatusOr<NativeFn>(FindStrMethod("split")));
  ASSIGN_OR_RETURN(const Value words, split(context, stripped, none));
  TextBuilder out;
  for (const Value& word : words.seq().items) {
    if (out.size() > 0) out.Append(" ");
    out.Append(word.text());
  }
  return context.heap().Str(std::move(out));
}

void AppendQuoted(const Text& text, bool for_query, TextBuilder* out) {
  TrustCursor trust(text);
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text.bytes[i]);
    const bool untrusted = trust.Untrusted(i, i + 1);
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                       c == '_' || c == '.' || c == '-' || c == '~' || (c == '/' && !for_query);
    if (plain) {
      out->Append(static_cast<char>(c), untrusted);
    } else if (c == ' ' && for_query) {
      out->Append('+', untrusted);
    } else {
      out->Append(absl::StrFormat("%%%02X", c), untrusted);
    }
  }
}

absl::StatusOr<Value> UrlEncode(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("urlencode", args, {}).status());
  TextBuilder out;
  if (!self.IsDict() && !self.IsSeq()) {
    ASSIGN_OR_RETURN(const Value text, ToStr(context, self));
    RETURN_IF_ERROR(context.ChargeCharacters(text.text().size()));
    AppendQuoted(text.text(), false, &out);
    return context.heap().Str(std::move(out));
  }
  std::vector<std::pair<Value, Value>> entries;
  if (self.IsDict()) {
    entries = self.dict().entries;
  } else {
    ASSIGN_OR_RETURN(const std::vector<Value> pairs, Iterate(context, self));
    for (const Value& pair : pairs) {
      ASSIGN_OR_RETURN(const std::vector<Value> entry, Iterate(context, pair));
      if (entry.size() != 2) return TemplateError("urlencode wants pairs");
      entries.emplace_back(entry[0], entry[1]);
    }
  }
  for (size_t i = 0; i < entries.size(); ++i) {
    if (i > 0) out.Append('&');
    ASSIGN_OR_RETURN(const Value key, ToStr(context, entries[i].first));
    ASSIGN_OR_RETURN(const Value value, ToStr(context, entries[i].second));
    RETURN_IF_ERROR(context.ChargeCharacters(key.text().size() + value.text().size()));
    AppendQuoted(key.text(), true, &out);
    out.Append('=');
    AppendQuoted(value.text(), true, &out);
  }
  return context.heap().Str(std::move(out));
}

absl::StatusOr<Value> String(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("string", args, {}).status());
  return ToStr(context, self);
}

constexpr NativeEntry kFilters[] = {
    {"capitalize", OnText<StrCapitalize>},
    {"center", Center},
    {"e", Escape},
    {"escape", Escape},
    {"forceescape", ForceEscape},
    {"format", Format},
    {"indent", Indent},
    {"lower", OnText<StrLower>},
    {"replace", Replace},
    {"safe", Safe},
    {"string", String},
    {"striptags", StripTags},
    {"title", Title},
    {"trim", OnText<StrStrip>},
    {"truncate", Truncate},
    {"upper", OnText<StrUpper>},
    {"urlencode", UrlEncode},
    {"wordcount", WordCount},
    {"wordwrap", WordWrap},
};

}  // namespace

NativeFn FindTextFilter(std::string_view name) { return FindNative(kFilters, name); }

}  // namespace paceline::model
