#include "model/chat_template/value_text.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "absl/strings/str_format.h"
#include "model/chat_template/callable.h"
#include "model/chat_template/concat.h"
#include "model/chat_template/operators.h"
#include "model/chat_template/unicode.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

// Adds bytes [begin, end) of `text` after `escape` has rewritten each code point that needs it;
// escape(c, &out) returns false to keep the code point as it is.
template <typename Escape>
void AppendEscaped(const Text& text, Escape escape, TextBuilder* out) {
  TrustCursor trust(text);
  size_t kept = 0;
  std::string replacement;
  for (size_t pos = 0; pos < text.size();) {
    const CodePoint c = DecodeCodePoint(text.bytes, pos);
    replacement.clear();
    if (escape(c, static_cast<unsigned char>(text.bytes[pos]), &replacement)) {
      out->Append(text, kept, pos);
      out->Append(replacement, trust.Untrusted(pos, pos + c.bytes));
      kept = pos + c.bytes;
    }
    pos += c.bytes;
  }
  out->Append(text, kept, text.size());
}

void AppendStringRepr(const Text& text, TextBuilder* out) {
  const bool double_quotes =
      text.bytes.find('\'') != std::string::npos && text.bytes.find('"') == std::string::npos;
  const char quote = double_quotes ? '"' : '\'';
  out->Append(quote);
  AppendEscaped(
      text,
      [quote](CodePoint c, unsigned char byte, std::string* escaped) {
        if (c.value == quote || c.value == '\\') {
          escaped->push_back('\\');
          escaped->push_back(static_cast<char>(c.value));
        } else if (c.value == '\n') {
          *escaped = "\\n";
        } else if (c.value == '\r') {
          *escaped = "\\r";
        } else if (c.value == '\t') {
          *escaped = "\\t";
        } else if (c.value < 0) {
          *escaped = absl::StrFormat("\\x%02x", byte);
        } else if (!IsPrintable(c.value)) {
          *escaped = c.value < 0x100     ? absl::StrFormat("\\x%02x", c.value)
                     : c.value < 0x10000 ? absl::StrFormat("\\u%04x", c.value)
                                         : absl::StrFormat("\\U%08x", c.value);
        } else {
          return false;
        }
        return true;
      },
      out);
  out->Append(quote);
}

absl::Status AppendItems(Context& context,
                         const std::vector<Value>& items,
                         std::string_view open,
                         std::string_view close,
                         TextBuilder* out) {
  out->Append(open);
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out->Append(", ");
    RETURN_IF_ERROR(AppendRepr(context, items[i], out));
  }
  out->Append(close);
  return absl::OkStatus();
}

absl::Status AppendSeqRepr(Context& context, const SeqObject& seq, TextBuilder* out) {
  switch (seq.type) {
    case SeqType::kList:
      return AppendItems(context, seq.items, "[", "]", out);
    case SeqType::kTuple:
    case SeqType::kGroup:
      return AppendItems(context, seq.items, "(", seq.items.size() == 1 ? ",)" : ")", out);
    case SeqType::kItems:
      return AppendItems(context, seq.items, "dict_items([", "])", out);
    case SeqType::kKeys:
      return AppendItems(context, seq.items, "dict_keys([", "])", out);
    case SeqType::kValues:
      return AppendItems(context, seq.items, "dict_values([", "])", out);
    case SeqType::kRange: {
      out->Append(Concat("range(", seq.start, ", ", seq.stop));
      if (seq.step != 1) out->Append(Concat(", ", seq.step));
      out->Append(")");
      return absl::OkStatus();
    }
    case SeqType::kIterator:
      out->Append("<generator object>");
      return absl::OkStatus();
  }
  return absl::OkStatus();
}

absl::Status AppendDictRepr(Context& context, const DictObject& dict, TextBuilder* out) {
  out->Append("{");
  bool first = true;
  for (const auto& [key, value] : dict.entries) {
    if (!first) out->Append(", ");
    first = false;
    RETURN_IF_ERROR(AppendRepr(context, key, out));
    out->Append(": ");
    RETURN_IF_ERROR(AppendRepr(context, value, out));
  }
  out->Append("}");
  return absl::OkStatus();
}

absl::Status AppendNamespaceRepr(Context& context, const NamespaceObject& ns, TextBuilder* out) {
  out->Append("<Namespace {");
  bool first = true;
  for (const auto& [name, value] : ns.attributes) {
    if (!first) out->Append(", ");
    first = false;
    Text text;
    text.bytes = name;
    AppendStringRepr(text, out);
    out->Append(": ");
    RETURN_IF_ERROR(AppendRepr(context, value, out));
  }
  out->Append("}>");
  return absl::OkStatus();
}

class JsonWriter {
 public:
  JsonWriter(Context& context, const JsonOptions& options, TextBuilder* out)
      : context_(context), options_(options), out_(out) {}

  absl::Status Write(const Value& value, int level) {
    RETURN_IF_ERROR(context_.Step());
    if (out_->size() > context_.limits().max_output_bytes) return context_.ChargeText(out_->size());
    switch (value.kind()) {
      case Kind::kNone:
        out_->Append("null");
        return absl::OkStatus();
      case Kind::kBool:
        out_->Append(value.AsBool() ? "true" : "false", value.untrusted_number());
        return absl::OkStatus();
      case Kind::kInt:
        out_->Append(Concat(value.AsInt()), value.untrusted_number());
        return absl::OkStatus();
      case Kind::kFloat:
        out_->Append(Float(value.AsDouble()), value.untrusted_number());
        return absl::OkStatus();
      case Kind::kStr:
        RETURN_IF_ERROR(context_.ChargeCharacters(value.text().size()));
        String(value.text());
        return absl::OkStatus();
      case Kind::kSeq:
        return Array(value, level);
      case Kind::kDict:
        return Object(value.dict(), level);
      default:
        return Unserializable(value);
    }
  }

 private:
  static absl::Status Unserializable(const Value& value) {
    return TemplateError(Concat("Object of type ", TypeName(value), " is not JSON serializable"));
  }

  static std::string Float(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
    return FloatRepr(value);
  }

  void String(const Text& text) {
    out_->Append('"');
    const bool ascii = options_.ensure_ascii;
    AppendEscaped(
        text,
        [ascii](CodePoint c, unsigned char byte, std::string* escaped) {
          static constexpr std::string_view kFrom = "\"\\\b\f\n\r\t";
          static constexpr std::string_view kTo = "\"\\bfnrt";
          const int32_t value = c.value < 0 ? 0xFFFD : c.value;
          if (value < 0x80) {
            if (const size_t at = kFrom.find(static_cast<char>(value)); at != kFrom.npos) {
              *escaped = {'\\', kTo[at]};
              return true;
            }
            if (value >= 0x20 && !(ascii && value == 0x7F)) return false;
          } else if (!ascii) {
            return false;
          }
          if (value >= 0x10000) {
            const int32_t rest = value - 0x10000;
            *escaped =
                absl::StrFormat("\\u%04x\\u%04x", 0xD800 + (rest >> 10), 0xDC00 + (rest & 0x3FF));
          } else {
            *escaped = absl::StrFormat("\\u%04x", value);
          }
          return true;
        },
        out_);
    out_->Append('"');
  }

  void NewLine(int level) {
    if (!options_.indent.has_value()) return;
    out_->Append('\n');
    out_->AppendCopies(*options_.indent, static_cast<size_t>(level));
  }

  absl::Status Array(const Value& value, int level) {
    const SeqObject& seq = value.seq();
    if (seq.type != SeqType::kList && seq.type != SeqType::kTuple && seq.type != SeqType::kGroup) {
      return Unserializable(value);
    }
    if (seq.items.empty()) {
      out_->Append("[]");
      return absl::OkStatus();
    }
    out_->Append('[');
    for (size_t i = 0; i < seq.items.size(); ++i) {
      if (i > 0) out_->Append(options_.item_separator);
      NewLine(level + 1);
      RETURN_IF_ERROR(Write(seq.items[i], level + 1));
    }
    NewLine(level);
    out_->Append(']');
    return absl::OkStatus();
  }

  absl::Status Key(const Value& key) {
    switch (key.kind()) {
      case Kind::kStr:
        String(key.text());
        return absl::OkStatus();
      case Kind::kNone:
      case Kind::kBool:
      case Kind::kInt:
      case Kind::kFloat: {
        out_->Append('"');
        RETURN_IF_ERROR(Write(key, 0));
        out_->Append('"');
        return absl::OkStatus();
      }
      default:
        return TemplateError(
            Concat("keys must be str, int, float, bool or None, not ", TypeName(key)));
    }
  }

  absl::Status Object(const DictObject& dict, int level) {
    if (dict.entries.empty()) {
      out_->Append("{}");
      return absl::OkStatus();
    }
    std::vector<size_t> order(dict.entries.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    if (options_.sort_keys) RETURN_IF_ERROR(SortKeys(dict, &order));
    out_->Append('{');
    for (size_t i = 0; i < order.size(); ++i) {
      if (i > 0) out_->Append(options_.item_separator);
      NewLine(level + 1);
      RETURN_IF_ERROR(Key(dict.entries[order[i]].first));
      out_->Append(options_.key_separator);
      RETURN_IF_ERROR(Write(dict.entries[order[i]].second, level + 1));
    }
    NewLine(level);
    out_->Append('}');
    return absl::OkStatus();
  }

  absl::Status SortKeys(const DictObject& dict, std::vector<size_t>* order) {
    std::vector<Value> keys;
    keys.reserve(dict.entries.size());
    for (const auto& [key, value] : dict.entries) keys.push_back(key);
    ASSIGN_OR_RETURN(*order, SortedOrder(context_, keys, false));
    return absl::OkStatus();
  }

  Context& context_;
  const JsonOptions& options_;
  TextBuilder* out_;
};

}  // namespace

std::string FloatRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[64];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  std::string_view text(buffer, static_cast<size_t>(end.ptr - buffer));
  const bool negative = text[0] == '-';
  if (negative) text.remove_prefix(1);
  const size_t e = text.find('e');
  int exponent = 0;
  const char* digits_of_exponent = text.data() + e + (text[e + 1] == '+' ? 2 : 1);
  std::from_chars(digits_of_exponent, text.data() + text.size(), exponent);
  std::string digits;
  for (const char c : text.substr(0, e)) {
    if (c != '.') digits.push_back(c);
  }
  std::string out = negative ? "-" : "";
  if (exponent < -4 || exponent >= 16) {
    out.push_back(digits[0]);
    if (digits.size() > 1) out += Concat(".", digits.substr(1));
    out += Concat(absl::StrFormat("e%c%02d", exponent < 0 ? '-' : '+', std::abs(exponent)));
    return out;
  }
  if (exponent < 0) {
    out += Concat("0.", std::string(static_cast<size_t>(-exponent - 1), '0'), digits);
    return out;
  }
  const auto whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) {
    out += Concat(digits, std::string(whole - digits.size(), '0'), ".0");
  } else {
    out += Concat(digits.substr(0, whole), ".", digits.substr(whole));
  }
  return out;
}

absl::Status AppendRepr(Context& context, const Value& value, TextBuilder* out) {
  RETURN_IF_ERROR(context.Step());
  if (out->size() > context.limits().max_output_bytes) return context.ChargeText(out->size());
  switch (value.kind()) {
    case Kind::kUndefined:
      out->Append("Undefined");
      return absl::OkStatus();
    case Kind::kNone:
      out->Append("None");
      return absl::OkStatus();
    case Kind::kBool:
      out->Append(value.AsBool() ? "True" : "False", value.untrusted_number());
      return absl::OkStatus();
    case Kind::kInt:
      out->Append(Concat(value.AsInt()), value.untrusted_number());
      return absl::OkStatus();
    case Kind::kFloat:
      out->Append(FloatRepr(value.AsDouble()), value.untrusted_number());
      return absl::OkStatus();
    case Kind::kStr:
      RETURN_IF_ERROR(context.ChargeCharacters(value.text().size()));
      if (value.str().markup) out->Append("Markup(");
      AppendStringRepr(value.text(), out);
      if (value.str().markup) out->Append(")");
      return absl::OkStatus();
    case Kind::kSeq:
      return AppendSeqRepr(context, value.seq(), out);
    case Kind::kDict:
      return AppendDictRepr(context, value.dict(), out);
    case Kind::kNamespace: {
      // The only value that can hold itself: the depth limit ends the recursion.
      ++context.depth;
      const absl::Status status =
          AppendNamespaceRepr(context, static_cast<const NamespaceObject&>(*value.object()), out);
      --context.depth;
      return status;
    }
    case Kind::kLoop: {
      const auto& loop = static_cast<const LoopObject&>(*value.object());
      out->Append(Concat("<LoopContext ", loop.index + 1, "/", loop.items().size(), ">"));
      return absl::OkStatus();
    }
    case Kind::kCallable:
      out->Append("<function>");
      return absl::OkStatus();
  }
  return absl::OkStatus();
}

absl::Status AppendStr(Context& context, const Value& value, TextBuilder* out) {
  if (value.IsStr()) {
    RETURN_IF_ERROR(context.ChargeText(value.text().size()));
    if (out->size() > context.limits().max_output_bytes) return context.ChargeText(out->size());
    out->Append(value.text());
    return absl::OkStatus();
  }
  if (value.IsUndefined()) return absl::OkStatus();
  return AppendRepr(context, value, out);
}

absl::StatusOr<Value> ToStr(Context& context, const Value& value) {
  if (value.IsStr()) return value;
  TextBuilder out;
  RETURN_IF_ERROR(AppendStr(context, value, &out));
  return context.heap().Str(std::move(out));
}

absl::Status AppendJson(Context& context,
                        const Value& value,
                        const JsonOptions& options,
                        TextBuilder* out) {
  return JsonWriter(context, options, out).Write(value, 0);
}

}  // namespace paceline::model
