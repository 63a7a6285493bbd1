#include "model/chat_template/operators.h"

#include <algorithm>
#include <cmath>

#include "model/chat_template/concat.h"
#include "model/chat_template/html.h"
#include "model/chat_template/unicode.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

constexpr std::string_view kBinaryNames[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};

absl::Status Unsupported(std::string_view op, const Value& a, const Value& b) {
  if (a.IsUndefined()) return UndefinedError(a);
  if (b.IsUndefined()) return UndefinedError(b);
  return TemplateError(Concat(
      "unsupported operand type(s) for ", op, ": '", TypeName(a), "' and '", TypeName(b), "'"));
}

absl::Status Overflow() { return TemplateError("integer result too large"); }

absl::StatusOr<int64_t> IntPower(int64_t base, int64_t exponent) {
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) return Overflow();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) return Overflow();
  }
  return result;
}

double FloorMod(double a, double b) {
  double r = std::fmod(a, b);
  if (r != 0 && ((r < 0) != (b < 0))) r += b;
  return r == 0 ? std::copysign(0.0, b) : r;
}

absl::StatusOr<Value> IntBinary(BinaryOp op, int64_t a, int64_t b, bool untrusted) {
  int64_t r = 0;
  switch (op) {
    case BinaryOp::kAdd:
      if (__builtin_add_overflow(a, b, &r)) return Overflow();
      break;
    case BinaryOp::kSub:
      if (__builtin_sub_overflow(a, b, &r)) return Overflow();
      break;
    case BinaryOp::kMul:
      if (__builtin_mul_overflow(a, b, &r)) return Overflow();
      break;
    case BinaryOp::kDiv:
      if (b == 0) return TemplateError("division by zero");
      return Value::Float(static_cast<double>(a) / static_cast<double>(b), untrusted);
    case BinaryOp::kFloorDiv:
    case BinaryOp::kMod: {
      if (b == 0) return TemplateError("integer division or modulo by zero");
      if (b == -1) {  // INT64_MIN / -1 overflows
        if (op == BinaryOp::kMod) return Value::Int(0, untrusted);
        if (__builtin_sub_overflow(int64_t{0}, a, &r)) return Overflow();
        break;
      }
      const bool round_down = a % b != 0 && ((a < 0) != (b < 0));
      if (op == BinaryOp::kFloorDiv) {
        r = a / b - (round_down ? 1 : 0);
      } else {
        r = a % b + (round_down ? b : 0);
      }
      break;
    }
    case BinaryOp::kPow: {
      if (b < 0) {
        if (a == 0) return TemplateError("0.0 cannot be raised to a negative power");
        return Value::Float(std::pow(static_cast<double>(a), static_cast<double>(b)), untrusted);
      }
      ASSIGN_OR_RETURN(r, IntPower(a, b));
      break;
    }
  }
  return Value::Int(r, untrusted);
}

absl::StatusOr<Value> FloatBinary(BinaryOp op, double a, double b, bool untrusted) {
  double r = 0;
  switch (op) {
    case BinaryOp::kAdd:
      r = a + b;
      break;
    case BinaryOp::kSub:
      r = a - b;
      break;
    case BinaryOp::kMul:
      r = a * b;
      break;
    case BinaryOp::kDiv:
    case BinaryOp::kFloorDiv:
    case BinaryOp::kMod:
      if (b == 0) return TemplateError("float division by zero");
      r = op == BinaryOp::kDiv   ? a / b
          : op == BinaryOp::kMod ? FloorMod(a, b)
                                 : std::floor((a - FloorMod(a, b)) / b + 0.5);
      break;
    case BinaryOp::kPow:
      if (a == 0 && b < 0) return TemplateError("0.0 cannot be raised to a negative power");
      if (a < 0 && std::floor(b) != b) return TemplateError("a complex number is not supported");
      r = std::pow(a, b);
      if (std::isinf(r) && !std::isinf(a) && !std::isinf(b)) return Overflow();
      break;
  }
  return Value::Float(r, untrusted);
}

absl::StatusOr<Value> AddStrings(Context& context, const Value& a, const Value& b) {
  RETURN_IF_ERROR(context.ChargeText(a.text().size() + b.text().size()));
  TextBuilder out;
  const bool markup = a.str().markup || b.str().markup;
  for (const Value* part : {&a, &b}) {
    if (markup && !part->str().markup) {
      AppendHtmlEscaped(part->text(), &out);
    } else {
      out.Append(part->text());
    }
  }
  return context.heap().Str(std::move(out).Take(), markup);
}

absl::StatusOr<Value> Repeat(Context& context, const Value& value, int64_t times) {
  const auto count = static_cast<size_t>(std::max<int64_t>(times, 0));
  if (value.IsStr()) {
    size_t bytes = 0;
    if (__builtin_mul_overflow(value.text().size(), count, &bytes)) bytes = SIZE_MAX;
    RETURN_IF_ERROR(context.ChargeText(bytes));
    if (bytes == 0) return context.heap().Str("");
    TextBuilder out;
    for (size_t i = 0; i < count; ++i) out.Append(value.text());
    return context.heap().Str(std::move(out).Take(), value.str().markup);
  }
  size_t items = 0;
  if (__builtin_mul_overflow(value.seq().items.size(), count, &items)) items = SIZE_MAX;
  if (items > static_cast<size_t>(context.limits().max_steps)) {
    return absl::ResourceExhaustedError("the chat template makes too long a list");
  }
  RETURN_IF_ERROR(context.Step(static_cast<int64_t>(items)));
  std::vector<Value> out;
  out.reserve(items);
  for (size_t i = 0; items > 0 && i < count; ++i) {
    out.insert(out.end(), value.seq().items.begin(), value.seq().items.end());
  }
  return context.heap().Seq(value.seq().type, std::move(out));
}

bool IsListOrTuple(const Value& value) {
  return value.IsSeq() &&
         (value.seq().type == SeqType::kList || value.seq().type == SeqType::kTuple ||
          value.seq().type == SeqType::kGroup);
}

absl::StatusOr<Value> AddSeqs(Context& context, const Value& a, const Value& b) {
  std::vector<Value> out;
  out.reserve(a.seq().items.size() + b.seq().items.size());
  RETURN_IF_ERROR(context.Step(static_cast<int64_t>(out.capacity())));
  out.insert(out.end(), a.seq().items.begin(), a.seq().items.end());
  out.insert(out.end(), b.seq().items.begin(), b.seq().items.end());
  return context.heap().Seq(a.seq().type == SeqType::kList ? SeqType::kList : SeqType::kTuple,
                            std::move(out));
}

absl::StatusOr<bool> LessSeq(Context& context, const SeqObject& a, const SeqObject& b) {
  const size_t n = std::min(a.items.size(), b.items.size());
  for (size_t i = 0; i < n; ++i) {
    RETURN_IF_ERROR(context.Step(std::min(a.items[i].weight(), b.items[i].weight())));
    if (!Equals(a.items[i], b.items[i])) return Less(context, a.items[i], b.items[i]);
  }
  return a.items.size() < b.items.size();
}

// Merge sort, because the comparison may fail.
absl::Status MergeSort(Context& context,
                       const std::vector<Value>& keys,
                       bool reverse,
                       std::vector<size_t>* order) {
  std::vector<size_t> merged(order->size());
  for (size_t width = 1; width < order->size(); width *= 2) {
    RETURN_IF_ERROR(context.Step(static_cast<int64_t>(order->size())));
    for (size_t begin = 0; begin < order->size(); begin += 2 * width) {
      const size_t middle = std::min(begin + width, order->size());
      const size_t end = std::min(begin + 2 * width, order->size());
      size_t left = begin;
      size_t right = middle;
      for (size_t out = begin; out < end; ++out) {
        bool take_right = left == middle;
        if (left < middle && right < end) {
          const Value& x = keys[(*order)[left]];
          const Value& y = keys[(*order)[right]];
          ASSIGN_OR_RETURN(take_right, reverse ? Less(context, x, y) : Less(context, y, x));
        }
        merged[out] = take_right ? (*order)[right++] : (*order)[left++];
      }
    }
    order->swap(merged);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status UndefinedError(const Value& value) {
  if (value.object() == nullptr) return TemplateError("the value is undefined");
  return TemplateError(static_cast<const UndefinedObject&>(*value.object()).message);
}

absl::StatusOr<Value> Binary(Context& context, BinaryOp op, const Value& a, const Value& b) {
  if (a.IsNumber() && b.IsNumber()) {
    const bool untrusted = a.untrusted_number() || b.untrusted_number();
    if (a.IsInteger() && b.IsInteger()) return IntBinary(op, a.AsInt(), b.AsInt(), untrusted);
    return FloatBinary(op, a.AsDouble(), b.AsDouble(), untrusted);
  }
  if (op == BinaryOp::kAdd) {
    if (a.IsStr() && b.IsStr()) return AddStrings(context, a, b);
    if (IsListOrTuple(a) && IsListOrTuple(b) &&
        (a.seq().type == SeqType::kList) == (b.seq().type == SeqType::kList)) {
      return AddSeqs(context, a, b);
    }
  }
  if (op == BinaryOp::kMul) {
    if ((a.IsStr() || IsListOrTuple(a)) && b.IsInteger()) return Repeat(context, a, b.AsInt());
    if ((b.IsStr() || IsListOrTuple(b)) && a.IsInteger()) return Repeat(context, b, a.AsInt());
  }
  if (op == BinaryOp::kMod && a.IsStr()) return FormatPercent(context, a.text(), b);
  return Unsupported(kBinaryNames[static_cast<size_t>(op)], a, b);
}

absl::StatusOr<Value> Negate(const Value& value) {
  if (value.IsUndefined()) return UndefinedError(value);
  if (!value.IsNumber()) {
    return TemplateError(Concat("bad operand type for unary -: '", TypeName(value), "'"));
  }
  if (!value.IsInteger()) return Value::Float(-value.AsDouble(), value.untrusted_number());
  return IntBinary(BinaryOp::kSub, 0, value.AsInt(), value.untrusted_number());
}

absl::StatusOr<bool> Less(Context& context, const Value& a, const Value& b) {
  if (a.IsNumber() && b.IsNumber()) {
    if (a.IsInteger() && b.IsInteger()) return a.AsInt() < b.AsInt();
    return a.AsDouble() < b.AsDouble();
  }
  if (a.IsStr() && b.IsStr()) return a.view() < b.view();
  if (IsListOrTuple(a) && IsListOrTuple(b) &&
      (a.seq().type == SeqType::kList) == (b.seq().type == SeqType::kList)) {
    return LessSeq(context, a.seq(), b.seq());
  }
  if (a.IsUndefined()) return UndefinedError(a);
  if (b.IsUndefined()) return UndefinedError(b);
  return TemplateError(
      Concat("'<' not supported between instances of '", TypeName(a), "' and '", TypeName(b), "'"));
}

absl::StatusOr<bool> Compare(Context& context, CompareOp op, const Value& a, const Value& b) {
  if (op == CompareOp::kIn) return Contains(context, b, a);
  if (op == CompareOp::kNotIn) {
    ASSIGN_OR_RETURN(const bool found, Contains(context, b, a));
    return !found;
  }
  if (a.kind() == b.kind()) RETURN_IF_ERROR(context.Step(std::min(a.weight(), b.weight())));
  if (op == CompareOp::kEq) return Equals(a, b);
  if (op == CompareOp::kNe) return !Equals(a, b);
  if (op == CompareOp::kLt) return Less(context, a, b);
  if (op == CompareOp::kGt) return Less(context, b, a);
  // <= and >= of numbers are not the negation of > and < (nan), of everything else they are.
  if (a.IsNumber() && b.IsNumber()) {
    ASSIGN_OR_RETURN(const bool less,
                     op == CompareOp::kLe ? Less(context, a, b) : Less(context, b, a));
    return less || Equals(a, b);
  }
  ASSIGN_OR_RETURN(const bool opposite,
                   op == CompareOp::kLe ? Less(context, b, a) : Less(context, a, b));
  return !opposite;
}

absl::StatusOr<bool> Contains(Context& context, const Value& container, const Value& item) {
  switch (container.kind()) {
    case Kind::kUndefined:
      return false;
    case Kind::kStr:
      if (!item.IsStr()) {
        return TemplateError(
            Concat("'in <string>' requires string as left operand, not ", TypeName(item)));
      }
      RETURN_IF_ERROR(context.ChargeText(container.text().size()));
      return FindBytes(container.view(), item.view(), 0) != std::string_view::npos;
    case Kind::kDict:
      RETURN_IF_ERROR(context.Step(item.weight()));
      if (!IsHashable(item)) {
        return TemplateError(Concat("unhashable type: '", TypeName(item), "'"));
      }
      return container.dict().Find(item) != nullptr;
    case Kind::kSeq: {
      if (container.seq().type == SeqType::kIterator) {
        auto& seq = static_cast<SeqObject&>(*container.object());
        while (seq.position < seq.items.size()) {
          if (Equals(seq.items[seq.position++], item)) return true;
        }
        RETURN_IF_ERROR(seq.error);
        return false;
      }
      const std::vector<Value>& items = container.seq().items;
      RETURN_IF_ERROR(context.Step(static_cast<int64_t>(items.size() / 8)));
      if (item.IsSeq() || item.IsDict()) RETURN_IF_ERROR(context.Step(container.weight()));
      return std::any_of(
          items.begin(), items.end(), [&](const Value& v) { return Equals(v, item); });
    }
    default:
      return TemplateError(Concat("argument of type '", TypeName(container), "' is not iterable"));
  }
}

absl::StatusOr<std::vector<size_t>> SortedOrder(Context& context,
                                                const std::vector<Value>& keys,
                                                bool reverse) {
  std::vector<size_t> order(keys.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  RETURN_IF_ERROR(MergeSort(context, keys, reverse, &order));
  return order;
}

absl::StatusOr<int64_t> Length(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return 0;
    case Kind::kStr:
      return static_cast<int64_t>(value.str().num_code_points);
    case Kind::kDict:
      return static_cast<int64_t>(value.dict().entries.size());
    case Kind::kSeq:
      if (value.seq().type != SeqType::kIterator) {
        return static_cast<int64_t>(value.seq().items.size());
      }
      [[fallthrough]];
    default:
      return TemplateError(Concat("object of type '", TypeName(value), "' has no len()"));
  }
}

}  // namespace paceline::model
