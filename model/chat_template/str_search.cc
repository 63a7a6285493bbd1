// Methods that look into a string or take it apart.
#include <algorithm>

#include "model/chat_template/concat.h"
#include "model/chat_template/operators.h"
#include "model/chat_template/str_methods.h"
#include "model/chat_template/unicode.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

// The byte range that [start:end] (in code points, None or absent for the ends) selects;
// absent when start lies behind the end of the text.
struct Window {
  size_t begin = 0;
  size_t end = 0;
  bool beyond = false;
};

absl::StatusOr<Window> SelectWindow(Context& context,
                                    const Value& self,
                                    const Value* start,
                                    const Value* end) {
  const Text& text = self.text();
  const auto length = static_cast<int64_t>(self.str().num_code_points);
  int64_t bounds[2] = {0, length};
  for (int i = 0; i < 2; ++i) {
    const Value* bound = i == 0 ? start : end;
    if (bound == nullptr || bound->IsNone()) continue;
    if (!bound->IsInteger()) {
      return TemplateError("slice indices must be integers or None or have an __index__ method");
    }
    bounds[i] = bound->AsInt();
    if (bounds[i] < 0) bounds[i] = std::max<int64_t>(0, bounds[i] + length);
  }
  Window window;
  window.beyond = bounds[0] > length;
  bounds[1] = std::clamp<int64_t>(bounds[1], 0, length);
  bounds[0] = std::clamp<int64_t>(bounds[0], 0, length);
  if (bounds[0] > bounds[1]) window.beyond = true;
  if (window.beyond) return window;
  if (self.str().ascii()) {
    window.begin = static_cast<size_t>(bounds[0]);
    window.end = static_cast<size_t>(bounds[1]);
    return window;
  }
  RETURN_IF_ERROR(context.ChargeCharacters(text.size()));
  size_t pos = 0;
  for (int64_t i = 0; i < bounds[1]; ++i) {
    if (i == bounds[0]) window.begin = pos;
    pos += DecodeCodePoint(text.bytes, pos).bytes;
  }
  if (bounds[0] == bounds[1]) window.begin = pos;
  window.end = pos;
  return window;
}

absl::StatusOr<Bound> BindSearch(std::string_view function, CallArgs& args) {
  ASSIGN_OR_RETURN(Bound bound, Bound::Bind(function, args, {"sub", "start", "end"}, 1));
  return bound;
}

absl::StatusOr<Value> Find(Context& context,
                           const Value& self,
                           CallArgs& args,
                           std::string_view function,
                           bool backward,
                           bool must_find) {
  ASSIGN_OR_RETURN(const Bound bound, BindSearch(function, args));
  if (!bound[0]->IsStr()) {
    return TemplateError(Concat("must be str, not ", TypeName(*bound[0])));
  }
  RETURN_IF_ERROR(context.ChargeText(self.text().size()));
  ASSIGN_OR_RETURN(const Window window, SelectWindow(context, self, bound[1], bound[2]));
  size_t at = std::string_view::npos;
  if (!window.beyond) {
    const std::string_view part = self.text().View(window.begin, window.end);
    at = backward ? FindLastBytes(part, bound[0]->view()) : FindBytes(part, bound[0]->view(), 0);
  }
  if (at == std::string_view::npos) {
    if (must_find) return TemplateError("substring not found");
    return Value::Int(-1);
  }
  at += window.begin;
  if (self.str().ascii()) return Value::Int(static_cast<int64_t>(at));
  return Value::Int(static_cast<int64_t>(CountCodePoints(self.view().substr(0, at))));
}

absl::StatusOr<Value> StrFind(Context& context, const Value& self, CallArgs& args) {
  return Find(context, self, args, "find", false, false);
}
absl::StatusOr<Value> StrRFind(Context& context, const Value& self, CallArgs& args) {
  return Find(context, self, args, "rfind", true, false);
}
absl::StatusOr<Value> StrIndex(Context& context, const Value& self, CallArgs& args) {
  return Find(context, self, args, "index", false, true);
}
absl::StatusOr<Value> StrRIndex(Context& context, const Value& self, CallArgs& args) {
  return Find(context, self, args, "rindex", true, true);
}

absl::StatusOr<Value> StrCount(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, BindSearch("count", args));
  if (!bound[0]->IsStr()) {
    return TemplateError(Concat("must be str, not ", TypeName(*bound[0])));
  }
  RETURN_IF_ERROR(context.ChargeText(self.text().size()));
  ASSIGN_OR_RETURN(const Window window, SelectWindow(context, self, bound[1], bound[2]));
  if (window.beyond) return Value::Int(0);
  const std::string_view part = self.text().View(window.begin, window.end);
  const std::string_view sub = bound[0]->view();
  if (sub.empty()) return Value::Int(static_cast<int64_t>(CountCodePoints(part)) + 1);
  int64_t count = 0;
  for (size_t at = FindBytes(part, sub, 0); at != part.npos;
       at = FindBytes(part, sub, at + sub.size())) {
    ++count;
  }
  return Value::Int(count);
}

absl::StatusOr<Value> HasAffix(Context& context, const Value& self, CallArgs& args, bool prefix) {
  const std::string_view function = prefix ? "startswith" : "endswith";
  ASSIGN_OR_RETURN(const Bound bound, BindSearch(function, args));
  ASSIGN_OR_RETURN(const Window window, SelectWindow(context, self, bound[1], bound[2]));
  std::vector<Value> affixes = {*bound[0]};
  if (bound[0]->IsSeq() && bound[0]->seq().type == SeqType::kTuple) {
    affixes = bound[0]->seq().items;
  }
  RETURN_IF_ERROR(context.Step(static_cast<int64_t>(affixes.size())));
  for (const Value& affix : affixes) {
    if (!affix.IsStr()) {
      return TemplateError(
          Concat(function, " first arg must be str or a tuple of str, not ", TypeName(affix)));
    }
    if (window.beyond) continue;
    const std::string_view part = self.text().View(window.begin, window.end);
    if (prefix ? part.starts_with(affix.view()) : part.ends_with(affix.view())) {
      return Value::Bool(true);
    }
  }
  return Value::Bool(false);
}

absl::StatusOr<Value> StrStartsWith(Context& context, const Value& self, CallArgs& args) {
  return HasAffix(context, self, args, true);
}
absl::StatusOr<Value> StrEndsWith(Context& context, const Value& self, CallArgs& args) {
  return HasAffix(context, self, args, false);
}

// Pieces between runs of whitespace, at most `limit` cuts (negative: no limit).
std::vector<TextSpan> SplitSpace(std::string_view text, int64_t limit) {
  std::vector<TextSpan> pieces;
  const auto skip = [&text](size_t pos, bool space) {
    while (pos < text.size()) {
      const CodePoint c = DecodeCodePoint(text, pos);
      if (IsSpace(c.value) != space) break;
      pos += c.bytes;
    }
    return pos;
  };
  size_t pos = skip(0, true);
  for (; pos < text.size() && limit != 0; --limit) {
    const size_t end = skip(pos, false);
    pieces.push_back({pos, end});
    pos = skip(end, true);
  }
  if (pos < text.size()) pieces.push_back({pos, text.size()});  // the rest as it is
  return pieces;
}

std::vector<TextSpan> RSplitSpace(std::string_view text, int64_t limit) {
  std::vector<TextSpan> pieces;
  const auto skip_back = [&text](size_t pos, bool space) {
    while (pos > 0) {
      const size_t previous = PreviousCodePoint(text, pos);
      if (IsSpace(DecodeCodePoint(text, previous).value) != space) break;
      pos = previous;
    }
    return pos;
  };
  size_t end = skip_back(text.size(), true);
  for (; end > 0 && limit != 0; --limit) {
    const size_t begin = skip_back(end, false);
    pieces.push_back({begin, end});
    end = skip_back(begin, true);
  }
  if (end > 0) pieces.push_back({0, end});
  std::reverse(pieces.begin(), pieces.end());
  return pieces;
}

std::vector<TextSpan> SplitAt(std::string_view text,
                              std::string_view separator,
                              int64_t limit,
                              bool backward) {
  std::vector<TextSpan> pieces;
  if (!backward) {
    size_t begin = 0;
    for (; limit != 0; --limit) {
      const size_t at = FindBytes(text, separator, begin);
      if (at == text.npos) break;
      pieces.push_back({begin, at});
      begin = at + separator.size();
    }
    pieces.push_back({begin, text.size()});
    return pieces;
  }
  size_t end = text.size();
  for (; limit != 0; --limit) {
    const size_t at = FindLastBytes(text.substr(0, end), separator);
    if (at == text.npos) break;
    pieces.push_back({at + separator.size(), end});
    end = at;
  }
  pieces.push_back({0, end});
  std::reverse(pieces.begin(), pieces.end());
  return pieces;
}

absl::StatusOr<Value> Pieces(Context& context,
                             const Text& text,
                             const std::vector<TextSpan>& spans) {
  RETURN_IF_ERROR(context.Step(static_cast<int64_t>(spans.size())));
  std::vector<Value> pieces;
  pieces.reserve(spans.size());
  for (const TextSpan& span : spans) {
    pieces.push_back(Substring(context, text, span.begin, span.end));
  }
  return context.heap().List(std::move(pieces));
}

absl::StatusOr<Value> Split(Context& context, const Value& self, CallArgs& args, bool backward) {
  ASSIGN_OR_RETURN(const Bound bound,
                   Bound::Bind(backward ? "rsplit" : "split", args, {"sep", "maxsplit"}));
  ASSIGN_OR_RETURN(const int64_t limit, bound.Int(1, -1));
  const Text& text = self.text();
  RETURN_IF_ERROR(context.ChargeText(text.size()));
  if (!bound.Has(0) || bound[0]->IsNone()) {
    RETURN_IF_ERROR(context.ChargeCharacters(text.size()));
    return Pieces(
        context, text, backward ? RSplitSpace(text.bytes, limit) : SplitSpace(text.bytes, limit));
  }
  if (!bound[0]->IsStr()) {
    return TemplateError(Concat("must be str or None, not ", TypeName(*bound[0])));
  }
  if (bound[0]->view().empty()) return TemplateError("empty separator");
  return Pieces(context, text, SplitAt(text.bytes, bound[0]->view(), limit, backward));
}

absl::StatusOr<Value> StrSplit(Context& context, const Value& self, CallArgs& args) {
  return Split(context, self, args, false);
}
absl::StatusOr<Value> StrRSplit(Context& context, const Value& self, CallArgs& args) {
  return Split(context, self, args, true);
}

absl::StatusOr<Value> StrSplitLines(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("splitlines", args, {"keepends"}));
  RETURN_IF_ERROR(context.ChargeCharacters(self.text().size()));
  return Pieces(context, self.text(), SplitLines(self.text(), bound.Bool(0, false)));
}

absl::StatusOr<Value> Partition(Context& context,
                                const Value& self,
                                CallArgs& args,
                                bool backward) {
  ASSIGN_OR_RETURN(const Bound bound,
                   Bound::Bind(backward ? "rpartition" : "partition", args, {"sep"}, 1));
  if (!bound[0]->IsStr()) {
    return TemplateError(Concat("must be str, not ", TypeName(*bound[0])));
  }
  const std::string_view separator = bound[0]->view();
  if (separator.empty()) return TemplateError("empty separator");
  const Text& text = self.text();
  RETURN_IF_ERROR(context.ChargeText(text.size()));
  const size_t at =
      backward ? FindLastBytes(text.bytes, separator) : FindBytes(text.bytes, separator, 0);
  std::vector<Value> parts;
  if (at == std::string::npos) {
    parts = {context.heap().Str(""), context.heap().Str("")};
    parts.insert(backward ? parts.end() : parts.begin(), self);
  } else {
    parts = {Substring(context, text, 0, at),
             Substring(context, text, at, at + separator.size()),
             Substring(context, text, at + separator.size(), text.size())};
  }
  return context.heap().Tuple(std::move(parts));
}

absl::StatusOr<Value> StrPartition(Context& context, const Value& self, CallArgs& args) {
  return Partition(context, self, args, false);
}
absl::StatusOr<Value> StrRPartition(Context& context, const Value& self, CallArgs& args) {
  return Partition(context, self, args, true);
}

// Whether all code points satisfy `test`, and there is at least one.
template <bool (*kTest)(int32_t)>
absl::StatusOr<Value> StrAll(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("isalpha", args, {}).status());
  const std::string_view text = self.view();
  RETURN_IF_ERROR(context.ChargeCharacters(text.size()));
  for (size_t pos = 0; pos < text.size();) {
    const CodePoint c = DecodeCodePoint(text, pos);
    if (!kTest(c.value)) return Value::Bool(false);
    pos += c.bytes;
  }
  return Value::Bool(!text.empty());
}

bool IsAsciiCodePoint(int32_t c) { return c >= 0 && c < 0x80; }

absl::StatusOr<Value> StrIsAscii(Context& context, const Value& self, CallArgs& args) {
  if (self.view().empty()) return Value::Bool(true);
  return StrAll<IsAsciiCodePoint>(context, self, args);
}

// No letter of the `other` case, and at least one of the `wanted`.
absl::StatusOr<Value> OneCase(Context& context,
                              const Value& self,
                              CallArgs& args,
                              bool (*wanted)(int32_t),
                              bool (*other)(int32_t)) {
  RETURN_IF_ERROR(Bound::Bind("islower", args, {}).status());
  const std::string_view text = self.view();
  RETURN_IF_ERROR(context.ChargeCharacters(text.size()));
  bool any = false;
  for (size_t pos = 0; pos < text.size();) {
    const CodePoint c = DecodeCodePoint(text, pos);
    if (other(c.value) || IsTitle(c.value)) return Value::Bool(false);
    any = any || wanted(c.value);
    pos += c.bytes;
  }
  return Value::Bool(any);
}

absl::StatusOr<Value> StrIsTitle(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("istitle", args, {}).status());
  const std::string_view text = self.view();
  RETURN_IF_ERROR(context.ChargeCharacters(text.size()));
  bool any = false;
  bool in_word = false;
  for (size_t pos = 0; pos < text.size();) {
    const CodePoint c = DecodeCodePoint(text, pos);
    const bool upper = IsUpper(c.value) || IsTitle(c.value);
    const bool lower = IsLower(c.value);
    if ((upper && in_word) || (lower && !in_word)) return Value::Bool(false);
    in_word = upper || lower;
    any = any || in_word;
    pos += c.bytes;
  }
  return Value::Bool(any);
}

constexpr NativeEntry kMethods[] = {
    {"count", StrCount},
    {"endswith", StrEndsWith},
    {"find", StrFind},
    {"index", StrIndex},
    {"isalnum", StrAll<IsAlnum>},
    {"isalpha", StrAll<IsAlpha>},
    {"isascii", StrIsAscii},
    {"isdecimal", StrAll<IsDigit>},
    {"isdigit", StrAll<IsDigit>},
    {"islower", StrIsLower},
    {"isnumeric", StrAll<IsDigit>},
    {"isspace", StrAll<IsSpace>},
    {"istitle", StrIsTitle},
    {"isupper", StrIsUpper},
    {"partition", StrPartition},
    {"rfind", StrRFind},
    {"rindex", StrRIndex},
    {"rpartition", StrRPartition},
    {"rsplit", StrRSplit},
    {"split", StrSplit},
    {"splitlines", StrSplitLines},
    {"startswith", StrStartsWith},
};

}  // namespace

absl::StatusOr<Value> StrIsLower(Context& context, const Value& self, CallArgs& args) {
  return OneCase(context, self, args, IsLower, IsUpper);
}

absl::StatusOr<Value> StrIsUpper(Context& context, const Value& self, CallArgs& args) {
  return OneCase(context, self, args, IsUpper, IsLower);
}

std::vector<TextSpan> SplitLines(const Text& text, bool keep_ends) {
  std::vector<TextSpan> lines;
  size_t begin = 0;
  for (size_t pos = 0; pos < text.size();) {
    const CodePoint c = DecodeCodePoint(text.bytes, pos);
    const size_t line_end = pos;
    pos += c.bytes;
    if (!IsLineBreak(c.value)) continue;
    if (c.value == '\r' && pos < text.size() && text.bytes[pos] == '\n') ++pos;
    lines.push_back({begin, keep_ends ? pos : line_end});
    begin = pos;
  }
  if (begin < text.size()) lines.push_back({begin, text.size()});
  return lines;
}

NativeFn FindStrSearchMethod(std::string_view name) { return FindNative(kMethods, name); }

}  // namespace paceline::model
