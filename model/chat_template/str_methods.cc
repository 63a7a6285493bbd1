// Methods that make a new string out of one.
#include "model/chat_template/str_methods.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "model/chat_template/concat.h"
#include "model/chat_template/operators.h"
#include "model/chat_template/unicode.h"
#include "model/chat_template/value_text.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

using CaseMapping = void (*)(int32_t c, std::string* out);

bool IsCased(int32_t c) { return IsLower(c) || IsUpper(c) || IsTitle(c); }

// Greek sigma has a form of its own at the end of a word.
bool IsFinalSigma(std::string_view text, size_t pos, size_t bytes) {
  if (pos == 0 || !IsCased(DecodeCodePoint(text, PreviousCodePoint(text, pos)).value)) return false;
  return pos + bytes >= text.size() || !IsCased(DecodeCodePoint(text, pos + bytes).value);
}

// Maps each code point by the function that choose(c) names (nullptr keeps it).
template <typename Choose>
absl::StatusOr<Value> MapCase(Context& context, const Value& self, Choose choose) {
  const Text& text = self.text();
  if (self.str().ascii()) {
    RETURN_IF_ERROR(context.ChargeText(text.size() * 8));
    Text mapped = text;
    for (char& c : mapped.bytes) {
      const CaseMapping mapping = choose(static_cast<unsigned char>(c));
      if (mapping == AppendUpper || mapping == AppendTitle) {
        c = absl::ascii_toupper(static_cast<unsigned char>(c));
      } else if (mapping != nullptr) {
        c = absl::ascii_tolower(static_cast<unsigned char>(c));
      }
    }
    return context.heap().Str(std::move(mapped), self.str().markup);
  }
  RETURN_IF_ERROR(context.ChargeCharacters(text.size() * 4));
  TextBuilder out;
  TrustCursor trust(text);
  std::string mapped;
  for (size_t pos = 0; pos < text.size();) {
    const CodePoint c = DecodeCodePoint(text.bytes, pos);
    const CaseMapping mapping = c.value < 0 ? nullptr : choose(c.value);
    if (mapping == nullptr) {
      out.Append(text, pos, pos + c.bytes);
    } else {
      mapped.clear();
      if (mapping == AppendLower && c.value == 0x3A3 && IsFinalSigma(text.bytes, pos, c.bytes)) {
        AppendUtf8(0x3C2, &mapped);
      } else {
        mapping(c.value, &mapped);
      }
      out.Append(mapped, trust.Untrusted(pos, pos + c.bytes));
    }
    pos += c.bytes;
  }
  return context.heap().Str(std::move(out).Take(), self.str().markup);
}

absl::Status NoArguments(std::string_view function, CallArgs& args) {
  return Bound::Bind(function, args, {}).status();
}

absl::StatusOr<Value> StrTitle(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(NoArguments("title", args));
  bool in_word = false;
  return MapCase(context, self, [&in_word](int32_t c) -> CaseMapping {
    const bool first = !in_word;
    in_word = IsCased(c);
    return first ? AppendTitle : AppendLower;
  });
}

absl::StatusOr<Value> StrSwapCase(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(NoArguments("swapcase", args));
  return MapCase(context, self, [](int32_t c) -> CaseMapping {
    return IsUpper(c) ? AppendLower : IsLower(c) ? AppendUpper : nullptr;
  });
}

absl::StatusOr<Value> StrCaseFold(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(NoArguments("casefold", args));
  return MapCase(context, self, [](int32_t c) -> CaseMapping {
    if (c == 0xDF) return [](int32_t, std::string* out) { out->append("ss"); };
    return AppendLower;
  });
}

absl::StatusOr<Value> Strip(Context& context,
                            const Value& self,
                            CallArgs& args,
                            std::string_view function,
                            bool left,
                            bool right) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(function, args, {"chars"}));
  const Text& text = self.text();
  RETURN_IF_ERROR(context.ChargeText(text.size()));
  std::vector<int32_t> chars;
  const bool whitespace = !bound.Has(0) || bound[0]->IsNone();
  if (!whitespace) {
    if (!bound[0]->IsStr()) {
      return TemplateError(Concat(function, " arg must be None or str"));
    }
    const std::string_view set = bound[0]->view();
    RETURN_IF_ERROR(context.ChargeCharacters(set.size()));
    for (size_t pos = 0; pos < set.size();) {
      const CodePoint c = DecodeCodePoint(set, pos);
      chars.push_back(c.value);
      pos += c.bytes;
    }
    std::sort(chars.begin(), chars.end());
    chars.erase(std::unique(chars.begin(), chars.end()), chars.end());
  }
  const auto stripped = [&](size_t pos) {
    const int32_t c = DecodeCodePoint(text.bytes, pos).value;
    return whitespace ? IsSpace(c) : std::binary_search(chars.begin(), chars.end(), c);
  };
  size_t begin = 0;
  size_t end = text.size();
  while (left && begin < end && stripped(begin)) {
    begin += DecodeCodePoint(text.bytes, begin).bytes;
  }
  while (right && end > begin) {
    const size_t previous = PreviousCodePoint(text.bytes, end);
    if (!stripped(previous)) break;
    end = previous;
  }
  RETURN_IF_ERROR(context.ChargeCharacters(text.size() - (end - begin)));
  if (begin == 0 && end == text.size()) return self;
  return Substring(context, text, begin, end);
}

absl::StatusOr<Value> StrLStrip(Context& context, const Value& self, CallArgs& args) {
  return Strip(context, self, args, "lstrip", true, false);
}
absl::StatusOr<Value> StrRStrip(Context& context, const Value& self, CallArgs& args) {
  return Strip(context, self, args, "rstrip", false, true);
}

absl::StatusOr<Value> RemoveAffix(Context& context,
                                  const Value& self,
                                  CallArgs& args,
                                  bool prefix) {
  ASSIGN_OR_RETURN(const Bound bound,
                   Bound::Bind(prefix ? "removeprefix" : "removesuffix", args, {"affix"}, 1));
  if (!bound[0]->IsStr()) return TemplateError("the argument of removeprefix must be str");
  const std::string_view affix = bound[0]->view();
  const Text& text = self.text();
  if (affix.empty() || affix.size() > text.size()) return self;
  if (prefix) {
    if (text.View(0, affix.size()) != affix) return self;
    return Substring(context, text, affix.size(), text.size());
  }
  if (text.View(text.size() - affix.size(), text.size()) != affix) return self;
  return Substring(context, text, 0, text.size() - affix.size());
}

absl::StatusOr<Value> StrRemovePrefix(Context& context, const Value& self, CallArgs& args) {
  return RemoveAffix(context, self, args, true);
}
absl::StatusOr<Value> StrRemoveSuffix(Context& context, const Value& self, CallArgs& args) {
  return RemoveAffix(context, self, args, false);
}

absl::StatusOr<Value> Justify(Context& context,
                              const Value& self,
                              CallArgs& args,
                              std::string_view function) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind(function, args, {"width", "fillchar"}, 1));
  ASSIGN_OR_RETURN(const int64_t width, bound.Int(0, 0));
  Text fill;
  fill.bytes = " ";
  if (bound.Has(1)) {
    if (!bound[1]->IsStr() || bound[1]->str().num_code_points != 1) {
      return TemplateError("The fill character must be exactly one character long");
    }
    fill = bound[1]->text();
  }
  const auto length = static_cast<int64_t>(self.str().num_code_points);
  if (width <= length) return self;
  const auto space = static_cast<size_t>(width - length);
  if (function == "ljust") return Pad(context, self, fill, 0, space);
  if (function == "rjust") return Pad(context, self, fill, space, 0);
  // Python puts the odd space on the left when the width is odd.
  const size_t left = space / 2 + (space & static_cast<size_t>(width) & 1);
  return Pad(context, self, fill, left, space - left);
}

absl::StatusOr<Value> StrLJust(Context& context, const Value& self, CallArgs& args) {
  return Justify(context, self, args, "ljust");
}
absl::StatusOr<Value> StrRJust(Context& context, const Value& self, CallArgs& args) {
  return Justify(context, self, args, "rjust");
}

absl::StatusOr<Value> StrZFill(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("zfill", args, {"width"}, 1));
  ASSIGN_OR_RETURN(const int64_t width, bound.Int(0, 0));
  const auto length = static_cast<int64_t>(self.str().num_code_points);
  if (width <= length) return self;
  RETURN_IF_ERROR(context.ChargeText(static_cast<size_t>(width)));
  const Text& text = self.text();
  const size_t sign = !text.bytes.empty() && (text.bytes[0] == '+' || text.bytes[0] == '-') ? 1 : 0;
  TextBuilder out;
  out.Append(text, 0, sign);
  out.AppendCopies("0", static_cast<size_t>(width - length));
  out.Append(text, sign, text.size());
  return context.heap().Str(std::move(out));
}

absl::StatusOr<Value> StrJoin(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("join", args, {"iterable"}, 1));
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(context, *bound[0]));
  TextBuilder out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].IsStr()) {
      return TemplateError(
          Concat("sequence item ", i, ": expected str instance, ", TypeName(items[i]), " found"));
    }
    if (i > 0) RETURN_IF_ERROR(AppendStr(context, self, &out));
    RETURN_IF_ERROR(AppendStr(context, items[i], &out));
  }
  RETURN_IF_ERROR(context.ChargeText(out.size()));
  return context.heap().Str(std::move(out));
}

absl::StatusOr<Value> StrExpandTabs(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("expandtabs", args, {"tabsize"}));
  ASSIGN_OR_RETURN(const int64_t tab, bound.Int(0, 8));
  const Text& text = self.text();
  RETURN_IF_ERROR(context.ChargeCharacters(text.size()));
  TextBuilder out;
  int64_t column = 0;
  for (size_t pos = 0; pos < text.size();) {
    const size_t bytes = DecodeCodePoint(text.bytes, pos).bytes;
    const char c = text.bytes[pos];
    if (c == '\t') {
      const int64_t spaces = tab > 0 ? tab - column % tab : 0;
      RETURN_IF_ERROR(context.ChargeText(out.size() + static_cast<size_t>(spaces)));
      out.AppendCopies(" ", static_cast<size_t>(spaces));
      column += spaces;
    } else {
      out.Append(text, pos, pos + bytes);
      column = c == '\n' || c == '\r' ? 0 : column + 1;
    }
    pos += bytes;
  }
  return context.heap().Str(std::move(out));
}

constexpr NativeEntry kMethods[] = {
    {"capitalize", StrCapitalize},
    {"casefold", StrCaseFold},
    {"center", StrCenter},
    {"expandtabs", StrExpandTabs},
    {"format", StrFormat},
    {"join", StrJoin},
    {"ljust", StrLJust},
    {"lower", StrLower},
    {"lstrip", StrLStrip},
    {"removeprefix", StrRemovePrefix},
    {"removesuffix", StrRemoveSuffix},
    {"replace", StrReplace},
    {"rjust", StrRJust},
    {"rstrip", StrRStrip},
    {"strip", StrStrip},
    {"swapcase", StrSwapCase},
    {"title", StrTitle},
    {"upper", StrUpper},
    {"zfill", StrZFill},
};

}  // namespace

absl::StatusOr<Value> StrUpper(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(NoArguments("upper", args));
  return MapCase(context, self, [](int32_t) { return AppendUpper; });
}

absl::StatusOr<Value> StrLower(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(NoArguments("lower", args));
  return MapCase(context, self, [](int32_t) { return AppendLower; });
}

absl::StatusOr<Value> StrCapitalize(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(NoArguments("capitalize", args));
  bool first = true;
  return MapCase(context, self, [&first](int32_t) -> CaseMapping {
    return std::exchange(first, false) ? AppendTitle : AppendLower;
  });
}

absl::StatusOr<Value> StrStrip(Context& context, const Value& self, CallArgs& args) {
  return Strip(context, self, args, "strip", true, true);
}

absl::StatusOr<Value> StrCenter(Context& context, const Value& self, CallArgs& args) {
  return Justify(context, self, args, "center");
}

absl::StatusOr<Value> Pad(
    Context& context, const Value& self, const Text& fill, size_t left, size_t right) {
  const Text& text = self.text();
  size_t bytes = 0;
  if (__builtin_mul_overflow(left + right, fill.size(), &bytes)) bytes = SIZE_MAX / 2;
  RETURN_IF_ERROR(context.ChargeText(bytes + text.size()));
  const bool untrusted = !fill.untrusted.empty();
  TextBuilder out;
  out.AppendCopies(fill.bytes, left, untrusted);
  out.Append(text);
  out.AppendCopies(fill.bytes, right, untrusted);
  return context.heap().Str(std::move(out));
}

absl::StatusOr<Value> StrReplace(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("replace", args, {"old", "new", "count"}, 2));
  ASSIGN_OR_RETURN(int64_t count, bound.Int(2, -1));
  if (!bound[0]->IsStr() || !bound[1]->IsStr()) {
    return TemplateError("replace() arguments must be str");
  }
  const Text& text = self.text();
  const std::string_view from = bound[0]->view();
  const Text& to = bound[1]->text();
  RETURN_IF_ERROR(context.ChargeText(text.size()));
  TextBuilder out;
  size_t kept = 0;
  size_t search = 0;
  while (count != 0) {
    const size_t at = from.empty() ? search : FindBytes(text.bytes, from, search);
    if (at == std::string::npos || at > text.size()) break;
    out.Append(text, kept, at);
    RETURN_IF_ERROR(AppendStr(context, *bound[1], &out));
    kept = at + from.size();
    search = kept;
    if (from.empty()) {  // between all code points, and at both ends
      if (at == text.size()) break;
      search += DecodeCodePoint(text.bytes, at).bytes;
    }
    if (count > 0) --count;
  }
  if (kept == 0 && out.size() == 0 && to.size() > 0 && search == 0) return self;
  out.Append(text, kept, text.size());
  RETURN_IF_ERROR(context.ChargeText(out.size()));
  return context.heap().Str(std::move(out));
}

NativeFn FindStrMethod(std::string_view name) {
  const NativeFn method = FindNative(kMethods, name);
  return method != nullptr ? method : FindStrSearchMethod(name);
}

}  // namespace paceline::model
