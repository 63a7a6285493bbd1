// The tests of "is".
#include "model/chat_template/native.h"
#include "model/chat_template/operators.h"
#include "model/chat_template/str_methods.h"
#include "model/chat_template/value_text.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

// A test that takes no argument and cannot fail.
template <bool (*kTest)(const Value&)>
absl::StatusOr<Value> Simple(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("test", args, {}).status());
  return Value::Bool(kTest(self));
}

bool IsDefined(const Value& v) { return !v.IsUndefined(); }
bool IsUndefinedValue(const Value& v) { return v.IsUndefined(); }
bool IsBoolean(const Value& v) { return v.Is(Kind::kBool); }
bool IsTrue(const Value& v) { return v.Is(Kind::kBool) && v.AsBool(); }
bool IsFalse(const Value& v) { return v.Is(Kind::kBool) && !v.AsBool(); }
bool IsIntegerValue(const Value& v) { return v.Is(Kind::kInt); }
bool IsFloatValue(const Value& v) { return v.Is(Kind::kFloat); }
bool IsNumberValue(const Value& v) { return v.IsNumber(); }
bool IsNoneValue(const Value& v) { return v.IsNone(); }
bool IsString(const Value& v) { return v.IsStr(); }
bool IsMapping(const Value& v) { return v.IsDict(); }
bool IsCallable(const Value& v) {
  // Undefined objects, namespaces and loops have a __call__ or not as in jinja2.
  return v.Is(Kind::kCallable) || v.Is(Kind::kLoop) || v.IsUndefined();
}
bool IsIterable(const Value& v) {
  return v.IsUndefined() || v.IsStr() || v.IsSeq() || v.IsDict() || v.Is(Kind::kLoop);
}
bool IsSequence(const Value& v) {
  return v.IsUndefined() || v.IsStr() || v.IsDict() ||
         (v.IsSeq() && v.seq().type <= SeqType::kRange);
}
bool IsEscaped(const Value& v) { return v.IsStr() && v.str().markup; }

bool IsFilterName(const Value& v) { return v.IsStr() && FindFilter(v.view()) != nullptr; }
bool IsTestName(const Value& v) { return v.IsStr() && FindTest(v.view()) != nullptr; }

template <CompareOp kOp>
absl::StatusOr<Value> Compares(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("test", args, {"other"}, 1));
  ASSIGN_OR_RETURN(const bool holds, Compare(context, kOp, self, *bound[0]));
  return Value::Bool(holds);
}

absl::StatusOr<Value> SameAs(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("sameas", args, {"other"}, 1));
  const Value& other = *bound[0];
  if (self.kind() != other.kind()) return Value::Bool(false);
  if (self.object() != nullptr && !self.IsUndefined() && !self.IsStr()) {
    return Value::Bool(self.object() == other.object());
  }
  if (self.IsUndefined()) return Value::Bool(self.object() == other.object());
  return Value::Bool(Equals(self, other));
}

absl::StatusOr<Value> Remainder(Context& context, const Value& self, const Value& by) {
  return Binary(context, BinaryOp::kMod, self, by);
}

absl::StatusOr<Value> DivisibleBy(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("divisibleby", args, {"num"}, 1));
  ASSIGN_OR_RETURN(const Value rest, Remainder(context, self, *bound[0]));
  return Value::Bool(Equals(rest, Value::Int(0)));
}

absl::StatusOr<Value> Even(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("even", args, {}).status());
  ASSIGN_OR_RETURN(const Value rest, Remainder(context, self, Value::Int(2)));
  return Value::Bool(Equals(rest, Value::Int(0)));
}

absl::StatusOr<Value> Odd(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("odd", args, {}).status());
  ASSIGN_OR_RETURN(const Value rest, Remainder(context, self, Value::Int(2)));
  return Value::Bool(Equals(rest, Value::Int(1)));
}

template <NativeFn kMethod>
absl::StatusOr<Value> OnText(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Value text, ToStr(context, self));
  return kMethod(context, text, args);
}

constexpr NativeEntry kTests[] = {
    {"!=", Compares<CompareOp::kNe>},
    {"<", Compares<CompareOp::kLt>},
    {"<=", Compares<CompareOp::kLe>},
    {"==", Compares<CompareOp::kEq>},
    {">", Compares<CompareOp::kGt>},
    {">=", Compares<CompareOp::kGe>},
    {"boolean", Simple<IsBoolean>},
    {"callable", Simple<IsCallable>},
    {"defined", Simple<IsDefined>},
    {"divisibleby", DivisibleBy},
    {"eq", Compares<CompareOp::kEq>},
    {"equalto", Compares<CompareOp::kEq>},
    {"escaped", Simple<IsEscaped>},
    {"even", Even},
    {"false", Simple<IsFalse>},
    {"filter", Simple<IsFilterName>},
    {"float", Simple<IsFloatValue>},
    {"ge", Compares<CompareOp::kGe>},
    {"greaterthan", Compares<CompareOp::kGt>},
    {"gt", Compares<CompareOp::kGt>},
    {"in", Compares<CompareOp::kIn>},
    {"integer", Simple<IsIntegerValue>},
    {"iterable", Simple<IsIterable>},
    {"le", Compares<CompareOp::kLe>},
    {"lessthan", Compares<CompareOp::kLt>},
    {"lower", OnText<StrIsLower>},
    {"lt", Compares<CompareOp::kLt>},
    {"mapping", Simple<IsMapping>},
    {"ne", Compares<CompareOp::kNe>},
    {"none", Simple<IsNoneValue>},
    {"number", Simple<IsNumberValue>},
    {"odd", Odd},
    {"sameas", SameAs},
    {"sequence", Simple<IsSequence>},
    {"string", Simple<IsString>},
    {"test", Simple<IsTestName>},
    {"true", Simple<IsTrue>},
    {"undefined", Simple<IsUndefinedValue>},
    {"upper", OnText<StrIsUpper>},
};

}  // namespace

NativeFn FindTest(std::string_view name) { return FindNative(kTests, name); }

}  // namespace paceline::model
