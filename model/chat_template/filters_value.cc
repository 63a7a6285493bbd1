// Filters on single values: numbers, defaults, JSON.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "model/chat_template/concat.h"
#include "model/chat_template/filters.h"
#include "model/chat_template/number_text.h"
#include "model/chat_template/operators.h"
#include "model/chat_template/value_text.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

absl::StatusOr<Value> Abs(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("abs", args, {}).status());
  if (self.IsUndefined()) return UndefinedError(self);
  if (!self.IsNumber()) {
    return TemplateError(Concat("bad operand type for abs(): '", TypeName(self), "'"));
  }
  if (!self.IsInteger()) return Value::Float(std::fabs(self.AsDouble()), self.untrusted_number());
  if (self.AsInt() < 0) return Negate(self);
  return Value::Int(self.AsInt(), self.untrusted_number());
}

absl::StatusOr<Value> Default(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("default", args, {"default_value", "boolean"}));
  if (self.IsUndefined() || (bound.Bool(1, false) && !Truthy(self))) {
    return bound.Has(0) ? *bound[0] : context.heap().Str("");
  }
  return self;
}

absl::StatusOr<Value> Int(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("int", args, {"default", "base"}));
  ASSIGN_OR_RETURN(const int64_t base, bound.Int(1, 10));
  const Value default_value = bound.Has(0) ? *bound[0] : Value::Int(0);
  if (self.IsUndefined()) return UndefinedError(self);
  const bool untrusted = AnyUntrusted(self);
  double number = 0;
  if (self.IsStr()) {
    if (base != 0 && (base < 2 || base > 36)) return default_value;
    if (const auto value = ParseInt(self.view(), static_cast<int>(base))) {
      return Value::Int(*value, untrusted);
    }
    const auto value = ParseFloat(self.view());
    if (!value.has_value()) return default_value;
    number = *value;
  } else if (self.IsInteger()) {
    return Value::Int(self.AsInt(), untrusted);
  } else if (self.Is(Kind::kFloat)) {
    number = self.AsDouble();
  } else {
    return default_value;
  }
  if (std::isnan(number) || std::isinf(number)) return default_value;
  if (std::fabs(number) >= 9.2e18) return TemplateError("integer result too large");
  return Value::Int(static_cast<int64_t>(number), untrusted);
}

absl::StatusOr<Value> Float(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("float", args, {"default"}));
  if (self.IsUndefined()) return UndefinedError(self);
  if (self.IsNumber()) return Value::Float(self.AsDouble(), self.untrusted_number());
  if (self.IsStr()) {
    if (const auto value = ParseFloat(self.view())) return Value::Float(*value, AnyUntrusted(self));
  }
  return bound.Has(0) ? *bound[0] : Value::Float(0.0);
}

absl::StatusOr<Value> Round(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("round", args, {"precision", "method"}));
  ASSIGN_OR_RETURN(const int64_t precision, bound.Int(0, 0));
  const std::string_view method = bound.Has(1) && bound[1]->IsStr() ? bound[1]->view() : "common";
  const bool known = method == "common" || method == "ceil" || method == "floor";
  if (!known || (bound.Has(1) && !bound[1]->IsStr())) {
    return TemplateError("method must be common, ceil or floor");
  }
  if (self.IsUndefined()) return UndefinedError(self);
  if (!self.IsNumber()) return TemplateError("round wants a number");
  if (std::abs(precision) > 300) return TemplateError("round: precision too large");
  const bool untrusted = self.untrusted_number();
  if (method == "common") {
    if (self.IsInteger()) {
      if (precision >= 0) return Value::Int(self.AsInt(), untrusted);
      return RoundInt(self.AsInt(), precision, untrusted);
    }
    return Value::Float(RoundDecimal(self.AsDouble(), static_cast<int>(precision)), untrusted);
  }
  // value * (10**precision) is a float product unless both are integers.
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = self.AsDouble() * scale;
  return Value::Float((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale,
                      untrusted);
}

absl::StatusOr<Value> ToJson(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(
      const Bound bound,
      Bound::Bind("tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"}));
  JsonOptions options;
  options.ensure_ascii = bound.Bool(0, false);
  options.sort_keys = bound.Bool(3, false);
  if (bound.Has(1) && !bound[1]->IsNone()) {
    if (bound[1]->IsStr()) {
      options.indent = bound[1]->view();
    } else {
      ASSIGN_OR_RETURN(const int64_t width, bound.Int(1, 0));
      if (width > 1000) return TemplateError("tojson: indent too large");
      options.indent = std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
    }
  }
  options.item_separator.bytes = options.indent.has_value() ? "," : ", ";
  options.key_separator.bytes = ": ";
  if (bound.Has(2) && !bound[2]->IsNone()) {
    ASSIGN_OR_RETURN(const std::vector<Value> separators, Iterate(context, *bound[2]));
    if (separators.size() != 2 || !separators[0].IsStr() || !separators[1].IsStr()) {
      return TemplateError("tojson: separators are two strings");
    }
    options.item_separator = separators[0].text();
    options.key_separator = separators[1].text();
  }
  TextBuilder out;
  RETURN_IF_ERROR(AppendJson(context, self, options, &out));
  RETURN_IF_ERROR(context.ChargeText(out.size()));
  return context.heap().Str(std::move(out));
}

// repr with the keys of every dict in order. Unlike Python's, long values stay on one line.
absl::StatusOr<Value> SortKeys(Context& context, const Value& value) {
  RETURN_IF_ERROR(context.Step());
  if (value.IsDict()) {
    std::vector<Value> keys;
    for (const auto& [key, item] : value.dict().entries) keys.push_back(key);
    absl::StatusOr<std::vector<size_t>> order = SortedOrder(context, keys, false);
    auto sorted = std::make_shared<DictObject>();
    for (size_t i = 0; i < keys.size(); ++i) {
      const auto& [key, item] = value.dict().entries[order.ok() ? (*order)[i] : i];
      ASSIGN_OR_RETURN(Value inner, SortKeys(context, item));
      sorted->Set(key, std::move(inner));
    }
    return context.heap().Dict(std::move(sorted));
  }
  if (value.IsSeq() && value.seq().type <= SeqType::kTuple) {
    std::vector<Value> items;
    for (const Value& item : value.seq().items) {
      ASSIGN_OR_RETURN(Value inner, SortKeys(context, item));
      items.push_back(std::move(inner));
    }
    return context.heap().Seq(value.seq().type, std::move(items));
  }
  return value;
}

absl::StatusOr<Value> PPrint(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("pprint", args, {}).status());
  ASSIGN_OR_RETURN(const Value sorted, SortKeys(context, self));
  TextBuilder out;
  RETURN_IF_ERROR(AppendRepr(context, sorted, &out));
  return context.heap().Str(std::move(out));
}

absl::StatusOr<Value> Attr(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("attr", args, {"name"}, 1));
  if (!bound[0]->IsStr()) return TemplateError("attr: the name must be a string");
  if (self.IsUndefined()) return UndefinedError(self);
  // Only attributes proper: an item of a dict is none.
  if (self.IsDict() && FindDictMethod(bound[0]->view()) == nullptr) {
    return context.heap().Undefined(
        Concat("'dict object' has no attribute '", bound[0]->view().substr(0, 80), "'"));
  }
  return GetAttr(context, self, bound[0]->view());
}

constexpr NativeEntry kFilters[] = {
    {"abs", Abs},
    {"attr", Attr},
    {"d", Default},
    {"default", Default},
    {"float", Float},
    {"int", Int},
    {"pprint", PPrint},
    {"round", Round},
    {"tojson", ToJson},
};

}  // namespace

NativeFn FindValueFilter(std::string_view name) { return FindNative(kFilters, name); }

}  // namespace paceline::model
