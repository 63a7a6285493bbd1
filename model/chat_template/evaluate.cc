// Expressions.
#include "model/chat_template/concat.h"
#include "model/chat_template/interpreter.h"
#include "model/chat_template/operators.h"
#include "model/chat_template/value_text.h"
#include "proto/support/status_macros.h"

namespace paceline::model {

absl::StatusOr<Value> Interpreter::Evaluate(const Expr& expr, Scope* scope) {
  if (expr.type == ExprType::kConstant) return expr.constant;
  ++context_.depth;
  line_ = expr.line;
  absl::Status step = context_.Step();
  if (!step.ok()) {
    --context_.depth;
    return step;
  }
  absl::StatusOr<Value> value = Dispatch(expr, scope);
  --context_.depth;
  return value;
}

absl::StatusOr<Value> Interpreter::Dispatch(const Expr& expr, Scope* scope) {
  switch (expr.type) {
    case ExprType::kConstant:
      return expr.constant;
    case ExprType::kName:
      return EvaluateName(expr, scope);
    case ExprType::kList:
    case ExprType::kTuple: {
      ASSIGN_OR_RETURN(std::vector<Value> items, EvaluateAll(expr.items, scope));
      return context_.heap().Seq(expr.type == ExprType::kList ? SeqType::kList : SeqType::kTuple,
                                 std::move(items));
    }
    case ExprType::kDict:
      return EvaluateDict(expr, scope);
    case ExprType::kGetAttr:
    case ExprType::kGetItem:
      return EvaluateSubscript(expr, scope);
    case ExprType::kSlice:
      return EvaluateSlice(expr, scope);
    case ExprType::kCall:
      return EvaluateCall(expr, scope);
    case ExprType::kFilter:
    case ExprType::kTest:
      return EvaluateNative(expr, scope);
    case ExprType::kNegate:
    case ExprType::kPlus: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*expr.a, scope));
      if (expr.type == ExprType::kNegate) return Negate(value);
      return Binary(context_, BinaryOp::kAdd, Value::Int(0), value);
    }
    case ExprType::kNot: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*expr.a, scope));
      return Value::Bool(!Truthy(value));
    }
    case ExprType::kBinary:
      return EvaluateBinary(expr, scope);
    case ExprType::kConcat:
      return EvaluateConcat(expr, scope);
    case ExprType::kCompare:
      return EvaluateCompare(expr, scope);
    case ExprType::kAnd:
    case ExprType::kOr:
      return EvaluateLogical(expr, scope);
    case ExprType::kConditional:
      return EvaluateConditional(expr, scope);
  }
  return Value();
}

absl::StatusOr<Value> Interpreter::EvaluateName(const Expr& expr, Scope* scope) {
  if (const Value* value = scope->Find(expr.name)) return *value;
  const Global& global = globals_[static_cast<size_t>(expr.name)];
  if (global.present) return global.value;
  return context_.heap().Undefined(
      Concat("'", ast_.names[static_cast<size_t>(expr.name)].substr(0, 80), "' is undefined"));
}

absl::StatusOr<std::vector<Value>> Interpreter::EvaluateAll(const std::vector<ExprPtr>& items,
                                                            Scope* scope) {
  std::vector<Value> out;
  out.reserve(items.size());
  for (const ExprPtr& item : items) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*item, scope));
    out.push_back(std::move(value));
  }
  return out;
}

absl::StatusOr<Value> Interpreter::EvaluateDict(const Expr& expr, Scope* scope) {
  auto dict = std::make_shared<DictObject>();
  for (size_t i = 0; i < expr.items.size(); i += 2) {
    ASSIGN_OR_RETURN(const Value key, Evaluate(*expr.items[i], scope));
    ASSIGN_OR_RETURN(Value value, Evaluate(*expr.items[i + 1], scope));
    RETURN_IF_ERROR(context_.Step(key.weight()));
    if (!IsHashable(key)) {
      return TemplateError(Concat("unhashable type: '", TypeName(key), "'"));
    }
    dict->Set(key, std::move(value));
  }
  return context_.heap().Dict(std::move(dict));
}

absl::StatusOr<Value> Interpreter::EvaluateSubscript(const Expr& expr, Scope* scope) {
  ASSIGN_OR_RETURN(const Value object, Evaluate(*expr.a, scope));
  if (expr.type == ExprType::kGetAttr) return GetAttr(context_, object, expr.text);
  ASSIGN_OR_RETURN(const Value key, Evaluate(*expr.b, scope));
  line_ = expr.line;
  return GetItem(context_, object, key);
}

absl::StatusOr<Value> Interpreter::EvaluateSlice(const Expr& expr, Scope* scope) {
  ASSIGN_OR_RETURN(const Value object, Evaluate(*expr.a, scope));
  Value bounds[3] = {Value::None(), Value::None(), Value::None()};
  for (size_t i = 0; i < 3; ++i) {
    if (expr.items[i] == nullptr) continue;
    ASSIGN_OR_RETURN(bounds[i], Evaluate(*expr.items[i], scope));
  }
  return Slice(context_, object, bounds[0], bounds[1], bounds[2]);
}

absl::StatusOr<Value> Interpreter::EvaluateBinary(const Expr& expr, Scope* scope) {
  // a + b + c is ((a + b) + c): walk down its left edge instead of recursing along it.
  std::vector<const Expr*> chain;
  const Expr* leftmost = &expr;
  for (; leftmost->type == ExprType::kBinary; leftmost = leftmost->a.get()) {
    chain.push_back(leftmost);
  }
  ASSIGN_OR_RETURN(Value left, Evaluate(*leftmost, scope));
  for (auto node = chain.rbegin(); node != chain.rend(); ++node) {
    RETURN_IF_ERROR(context_.Step());
    ASSIGN_OR_RETURN(const Value right, Evaluate(*(*node)->b, scope));
    line_ = (*node)->line;
    ASSIGN_OR_RETURN(left, Binary(context_, (*node)->binary, left, right));
  }
  return left;
}

absl::StatusOr<Value> Interpreter::EvaluateConcat(const Expr& expr, Scope* scope) {
  ASSIGN_OR_RETURN(const std::vector<Value> parts, EvaluateAll(expr.items, scope));
  TextBuilder out;
  for (const Value& part : parts) {
    RETURN_IF_ERROR(AppendStr(context_, part, &out));
  }
  RETURN_IF_ERROR(context_.ChargeText(out.size()));
  return context_.heap().Str(std::move(out));
}

absl::StatusOr<Value> Interpreter::EvaluateCompare(const Expr& expr, Scope* scope) {
  ASSIGN_OR_RETURN(Value left, Evaluate(*expr.items[0], scope));
  for (size_t i = 0; i < expr.compares.size(); ++i) {
    ASSIGN_OR_RETURN(Value right, Evaluate(*expr.items[i + 1], scope));
    ASSIGN_OR_RETURN(const bool holds, Compare(context_, expr.compares[i], left, right));
    if (!holds) return Value::Bool(false);
    left = std::move(right);
  }
  return Value::Bool(true);
}

absl::StatusOr<Value> Interpreter::EvaluateLogical(const Expr& expr, Scope* scope) {
  // Like EvaluateBinary: a or b or c is (a or b) or c.
  std::vector<const Expr*> chain;
  const Expr* leftmost = &expr;
  for (; leftmost->type == expr.type; leftmost = leftmost->a.get()) chain.push_back(leftmost);
  ASSIGN_OR_RETURN(Value value, Evaluate(*leftmost, scope));
  for (auto node = chain.rbegin(); node != chain.rend(); ++node) {
    if (Truthy(value) == (expr.type == ExprType::kOr)) return value;
    ASSIGN_OR_RETURN(value, Evaluate(*(*node)->b, scope));
  }
  return value;
}

absl::StatusOr<Value> Interpreter::EvaluateConditional(const Expr& expr, Scope* scope) {
  ASSIGN_OR_RETURN(const Value test, Evaluate(*expr.b, scope));
  if (Truthy(test)) return Evaluate(*expr.a, scope);
  if (expr.c != nullptr) return Evaluate(*expr.c, scope);
  return context_.heap().Undefined(
      "the inline if-expression evaluated to false and no else section was defined.");
}

absl::StatusOr<Value> Interpreter::EvaluateCall(const Expr& expr, Scope* scope) {
  ASSIGN_OR_RETURN(const Value callee, Evaluate(*expr.a, scope));
  CallArgs args;
  RETURN_IF_ERROR(EvaluateArguments(expr.args.get(), scope, &args));
  line_ = expr.line;
  return Call(callee, args);
}

absl::StatusOr<Value> Interpreter::EvaluateNative(const Expr& expr, Scope* scope) {
  ASSIGN_OR_RETURN(const Value value, Evaluate(*expr.a, scope));
  if (expr.native == nullptr) {
    return TemplateError(Concat("No ",
                                expr.type == ExprType::kFilter ? "filter" : "test",
                                " named '",
                                expr.text.substr(0, 80),
                                "' found."));
  }
  CallArgs args;
  RETURN_IF_ERROR(EvaluateArguments(expr.args.get(), scope, &args));
  line_ = expr.line;
  return expr.native(context_, value, args);
}

absl::StatusOr<Value> Interpreter::ApplyFilters(const Expr& expr,
                                                const Value& value,
                                                Scope* scope) {
  Value input = value;
  if (expr.a != nullptr) {
    ASSIGN_OR_RETURN(input, ApplyFilters(*expr.a, value, scope));
  }
  if (expr.native == nullptr) {
    return TemplateError(Concat("No filter named '", expr.text.substr(0, 80), "' found."));
  }
  CallArgs args;
  RETURN_IF_ERROR(EvaluateArguments(expr.args.get(), scope, &args));
  return expr.native(context_, input, args);
}

}  // namespace paceline::model
