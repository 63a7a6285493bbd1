// Attributes, subscripts, slices and iteration.
#include <algorithm>
#include <array>

#include "model/chat_template/callable.h"
#include "model/chat_template/concat.h"
#include "model/chat_template/operators.h"
#include "model/chat_template/unicode.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

constexpr size_t kMaxNameBytes = 80;  // of a name repeated in an error message

bool IsOneOf(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// What Python could reach but the sandbox of Hugging Face does not allow: attributes of its own
// machinery, and methods that change a value in place.
bool IsForbidden(const Value& object, std::string_view name) {
  if (name.size() > 4 && name.substr(0, 2) == "__" && name.substr(name.size() - 2) == "__") {
    return true;
  }
  if (object.IsDict()) {
    return IsOneOf(name, {"clear", "pop", "popitem", "setdefault", "update"});
  }
  return object.IsSeq() && object.seq().type == SeqType::kList &&
         IsOneOf(name, {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"});
}

Value Missing(Context& context, const Value& object, std::string_view name) {
  const std::string type = object.IsNone() ? "None" : Concat(TypeName(object), " object");
  return context.heap().Undefined(
      Concat("'", type, "' has no attribute '", name.substr(0, kMaxNameBytes), "'"));
}

Value LoopAttribute(Context& context, const Value& value, std::string_view name) {
  const auto& loop = static_cast<const LoopObject&>(*value.object());
  const auto index = static_cast<int64_t>(loop.index);
  const auto length = static_cast<int64_t>(loop.items().size());
  if (name == "index") return Value::Int(index + 1);
  if (name == "index0") return Value::Int(index);
  if (name == "first") return Value::Bool(index == 0);
  if (name == "last") return Value::Bool(index + 1 == length);
  if (name == "length") return Value::Int(length);
  if (name == "revindex") return Value::Int(length - index);
  if (name == "revindex0") return Value::Int(length - index - 1);
  if (name == "depth") return Value::Int(loop.depth0 + 1);
  if (name == "depth0") return Value::Int(loop.depth0);
  if (name == "previtem") {
    if (index == 0) return context.heap().Undefined("there is no previous item");
    return loop.items()[loop.index - 1];
  }
  if (name == "nextitem") {
    if (index + 1 >= length) return context.heap().Undefined("there is no next item");
    return loop.items()[loop.index + 1];
  }
  return Missing(context, value, name);
}

// The attribute proper, without falling back to items; nullptr-like: *found is false.
Value Attribute(Context& context, const Value& object, std::string_view name, bool* found) {
  *found = true;
  if (IsForbidden(object, name)) {
    return context.heap().Undefined(Concat("access to attribute '",
                                           name.substr(0, kMaxNameBytes),
                                           "' of '",
                                           TypeName(object),
                                           "' object is unsafe."));
  }
  NativeFn method = nullptr;
  switch (object.kind()) {
    case Kind::kStr:
      method = FindStrMethod(name);
      break;
    case Kind::kDict:
      method = FindDictMethod(name);
      break;
    case Kind::kSeq: {
      const SeqObject& seq = object.seq();
      if (seq.type == SeqType::kGroup && name == "grouper") return seq.items[0];
      if (seq.type == SeqType::kGroup && name == "list") return seq.items[1];
      if (seq.type == SeqType::kRange && name == "start") return Value::Int(seq.start);
      if (seq.type == SeqType::kRange && name == "stop") return Value::Int(seq.stop);
      if (seq.type == SeqType::kRange && name == "step") return Value::Int(seq.step);
      method = FindSeqMethod(seq.type, name);
      break;
    }
    case Kind::kNamespace:
      if (const Value* v = static_cast<const NamespaceObject&>(*object.object()).Find(name)) {
        return *v;
      }
      break;
    case Kind::kCallable: {
      const auto& callable = static_cast<const CallableObject&>(*object.object());
      if (callable.macro != nullptr && name == "name") {
        return context.heap().Str(std::string(callable.name));
      }
      break;
    }
    case Kind::kLoop:
      method = FindLoopMethod(name);
      if (method == nullptr) return LoopAttribute(context, object, name);
      break;
    default:
      break;
  }
  if (method != nullptr) return MakeNative(context, name, method, object);
  *found = false;
  return Value();
}

// A Python index or slice bound made absolute, held between `low` and `high`.
int64_t Clamp(int64_t index, int64_t length, int64_t low, int64_t high) {
  if (index < 0) index = index < -length ? -1 : index + length;
  return std::clamp(index, low, high);
}

absl::StatusOr<int64_t> Bound64(const Value& bound, int64_t default_value) {
  if (bound.IsNone()) return default_value;
  if (bound.IsUndefined()) return UndefinedError(bound);
  if (!bound.IsInteger()) {
    return TemplateError("slice indices must be integers or None or have an __index__ method");
  }
  return bound.AsInt();
}

// The byte offsets at which the code points of `text` begin, and its end.
std::vector<size_t> Offsets(const Text& text) {
  std::vector<size_t> offsets;
  offsets.reserve(text.size() + 1);
  for (size_t pos = 0; pos < text.size(); pos += DecodeCodePoint(text.bytes, pos).bytes) {
    offsets.push_back(pos);
  }
  offsets.push_back(text.size());
  return offsets;
}

struct Positions {
  int64_t begin;
  int64_t step;
  int64_t count;
};

absl::StatusOr<Positions> SlicePositions(int64_t length,
                                         const Value& begin,
                                         const Value& end,
                                         const Value& step) {
  ASSIGN_OR_RETURN(int64_t by, Bound64(step, 1));
  if (by == 0) return TemplateError("slice step cannot be zero");
  by = std::clamp<int64_t>(by, -(int64_t{1} << 40), int64_t{1} << 40);
  const bool forward = by > 0;
  const int64_t low = forward ? 0 : -1;
  const int64_t high = forward ? length : length - 1;
  ASSIGN_OR_RETURN(const int64_t first, Bound64(begin, INT64_MIN));
  ASSIGN_OR_RETURN(const int64_t last, Bound64(end, INT64_MIN));
  Positions p{};
  p.step = by;
  p.begin = begin.IsNone() ? (forward ? 0 : length - 1) : Clamp(first, length, low, high);
  const int64_t stop = end.IsNone() ? (forward ? length : -1) : Clamp(last, length, low, high);
  const int64_t distance = forward ? stop - p.begin : p.begin - stop;
  p.count = distance <= 0 ? 0 : (distance - 1) / (forward ? by : -by) + 1;
  return p;
}

Value SliceText(Context& context, const Value& value, const Positions& p) {
  const Text& text = value.text();
  TextBuilder out;
  if (value.str().ascii() && p.step == 1) {
    const auto begin = static_cast<size_t>(p.begin);
    out.Append(text, begin, begin + static_cast<size_t>(p.count));
  } else if (p.count > 0) {
    const std::vector<size_t> at = Offsets(text);
    if (p.step == 1) {
      out.Append(
          text, at[static_cast<size_t>(p.begin)], at[static_cast<size_t>(p.begin + p.count)]);
    } else {
      for (int64_t i = 0; i < p.count; ++i) {
        const auto c = static_cast<size_t>(p.begin + i * p.step);
        out.Append(text, at[c], at[c + 1]);
      }
    }
  }
  return context.heap().Str(std::move(out).Take(), value.str().markup);
}

absl::StatusOr<Value> IndexText(Context& context, const Value& value, int64_t index) {
  const auto length = static_cast<int64_t>(value.str().num_code_points);
  if (index < 0) index += length;
  if (index < 0 || index >= length) return Missing(context, value, Concat(index));
  size_t bytes = 0;
  if (value.str().ascii()) {
    return CharAt(context, value.text(), static_cast<size_t>(index), &bytes);
  }
  RETURN_IF_ERROR(context.ChargeCharacters(value.text().size()));
  size_t pos = 0;
  for (; index > 0; --index) pos += DecodeCodePoint(value.view(), pos).bytes;
  return CharAt(context, value.text(), pos, &bytes);
}

}  // namespace

Value MakeNative(Context& context, std::string_view name, NativeFn function, Value self) {
  auto object = std::make_shared<CallableObject>();
  object->name = name;
  object->native = function;
  object->depth = self.depth() + 1;
  object->self = std::move(self);
  context.heap().Adopt(object.get(), sizeof(CallableObject));
  return Value(Kind::kCallable, std::move(object));
}

Value CharAt(Context& context, const Text& text, size_t pos, size_t* bytes) {
  *bytes = DecodeCodePoint(text.bytes, pos).bytes;
  return Substring(context, text, pos, pos + *bytes);
}

Value Substring(Context& context, const Text& text, size_t begin, size_t end) {
  TextBuilder out;
  out.Append(text, begin, end);
  return context.heap().Str(std::move(out));
}

absl::StatusOr<Value> GetAttr(Context& context, const Value& object, std::string_view name) {
  if (object.IsUndefined()) return UndefinedError(object);
  bool found = false;
  Value attribute = Attribute(context, object, name, &found);
  if (found) return attribute;
  if (object.IsDict()) {
    if (const Value* value = object.dict().Find(name)) return *value;
  }
  return Missing(context, object, name);
}

absl::StatusOr<Value> GetItem(Context& context, const Value& object, const Value& key) {
  if (object.IsUndefined()) return UndefinedError(object);
  if (object.IsDict()) {
    RETURN_IF_ERROR(context.Step(key.weight()));
    if (IsHashable(key)) {
      if (const Value* value = object.dict().Find(key)) return *value;
    }
  } else if (key.IsInteger()) {
    if (object.IsStr()) return IndexText(context, object, key.AsInt());
    if (object.IsSeq() && object.seq().type <= SeqType::kRange) {
      const std::vector<Value>& items = object.seq().items;
      int64_t index = key.AsInt();
      if (index < 0) index += static_cast<int64_t>(items.size());
      if (index >= 0 && index < static_cast<int64_t>(items.size())) {
        return items[static_cast<size_t>(index)];
      }
    }
  }
  if (!key.IsStr()) return Missing(context, object, key.IsInteger() ? Concat(key.AsInt()) : "…");
  bool found = false;
  Value attribute = Attribute(context, object, key.view(), &found);
  return found ? attribute : Missing(context, object, key.view());
}

absl::StatusOr<Value> Slice(Context& context,
                            const Value& object,
                            const Value& begin,
                            const Value& end,
                            const Value& step) {
  if (object.IsUndefined()) return UndefinedError(object);
  const bool sliceable = object.IsStr() || (object.IsSeq() && object.seq().type <= SeqType::kRange);
  if (!sliceable) {
    return TemplateError(Concat("'", TypeName(object), "' object is not subscriptable"));
  }
  ASSIGN_OR_RETURN(const int64_t length, Length(object));
  ASSIGN_OR_RETURN(const Positions p, SlicePositions(length, begin, end, step));
  if (object.IsStr()) {
    const bool copy = object.str().ascii() && p.step == 1;
    RETURN_IF_ERROR(copy ? context.ChargeText(static_cast<size_t>(p.count))
                         : context.ChargeCharacters(object.text().size()));
    return SliceText(context, object, p);
  }
  RETURN_IF_ERROR(context.Step(p.count));
  const SeqObject& seq = object.seq();
  if (seq.type == SeqType::kRange) {
    return context.heap().Range(seq.start + p.begin * seq.step,
                                seq.start + (p.begin + p.count * p.step) * seq.step,
                                seq.step * p.step,
                                static_cast<size_t>(p.count));
  }
  std::vector<Value> items;
  items.reserve(static_cast<size_t>(p.count));
  for (int64_t i = 0; i < p.count; ++i) {
    items.push_back(seq.items[static_cast<size_t>(p.begin + i * p.step)]);
  }
  return context.heap().Seq(seq.type == SeqType::kList ? SeqType::kList : SeqType::kTuple,
                            std::move(items));
}

absl::StatusOr<std::vector<Value>> Iterate(Context& context, const Value& value) {
  std::vector<Value> out;
  switch (value.kind()) {
    case Kind::kUndefined:
      return out;
    case Kind::kStr: {
      const Text& text = value.text();
      RETURN_IF_ERROR(context.Step(static_cast<int64_t>(text.size())));
      out.reserve(value.str().num_code_points);
      for (size_t pos = 0, bytes = 0; pos < text.size(); pos += bytes) {
        out.push_back(CharAt(context, text, pos, &bytes));
      }
      return out;
    }
    case Kind::kDict:
      RETURN_IF_ERROR(context.Step(static_cast<int64_t>(value.dict().entries.size())));
      out.reserve(value.dict().entries.size());
      for (const auto& [key, item] : value.dict().entries) out.push_back(key);
      return out;
    case Kind::kSeq: {
      auto& seq = static_cast<SeqObject&>(*value.object());
      RETURN_IF_ERROR(context.Step(static_cast<int64_t>(seq.items.size())));
      if (seq.type != SeqType::kIterator) return seq.items;
      const auto rest = seq.items.begin() + static_cast<ptrdiff_t>(seq.position);
      out.assign(rest, seq.items.end());
      seq.position = seq.items.size();
      RETURN_IF_ERROR(seq.error);
      return out;
    }
    default:
      return TemplateError(Concat("'", TypeName(value), "' object is not iterable"));
  }
}

}  // namespace paceline::model
