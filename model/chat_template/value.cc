#include "model/chat_template/value.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "absl/status/status.h"
#include "model/chat_template/unicode.h"

namespace paceline::model {
namespace {

constexpr size_t kIndexFrom = 8;  // below this a dict is searched in order
constexpr int kMaxNesting = 100;  // of lists and dicts; bounds every recursion over them

bool SameItems(const std::vector<Value>& a, const std::vector<Value>& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), Equals);
}

bool SameDict(const DictObject& a, const DictObject& b) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = b.Find(key);
    if (other == nullptr || !Equals(value, *other)) return false;
  }
  return true;
}

// Saturates, because lists that share their parts can weigh more than any number holds.
void AddWeight(Object* object, int64_t weight) {
  if (__builtin_add_overflow(object->weight, weight, &object->weight)) {
    object->weight = INT64_MAX;
  }
}

bool IsTuple(SeqType type) { return type == SeqType::kTuple || type == SeqType::kGroup; }

}  // namespace

size_t DictObject::Position(const Value& key) const {
  if (entries.size() <= kIndexFrom) {
    for (size_t i = 0; i < entries.size(); ++i) {
      if (Equals(entries[i].first, key)) return i;
    }
    return entries.size();
  }
  const auto [first, last] = index_.equal_range(HashValue(key));
  for (auto it = first; it != last; ++it) {
    if (Equals(entries[it->second].first, key)) return it->second;
  }
  return entries.size();
}

const Value* DictObject::Find(const Value& key) const {
  const size_t position = Position(key);
  return position == entries.size() ? nullptr : &entries[position].second;
}

const Value* DictObject::Find(std::string_view key) const {
  const auto matches = [key](const Value& v) { return v.IsStr() && v.view() == key; };
  if (entries.size() <= kIndexFrom) {
    for (const auto& [k, v] : entries) {
      if (matches(k)) return &v;
    }
    return nullptr;
  }
  const auto [first, last] = index_.equal_range(std::hash<std::string_view>()(key));
  for (auto it = first; it != last; ++it) {
    if (matches(entries[it->second].first)) return &entries[it->second].second;
  }
  return nullptr;
}

void DictObject::Set(const Value& key, Value value) {
  const size_t position = Position(key);
  if (position < entries.size()) {
    entries[position].second = std::move(value);
    return;
  }
  entries.emplace_back(key, std::move(value));
  if (entries.size() == kIndexFrom + 1) {
    for (size_t i = 0; i < entries.size(); ++i) index_.emplace(HashValue(entries[i].first), i);
  } else if (entries.size() > kIndexFrom) {
    index_.emplace(HashValue(key), entries.size() - 1);
  }
}

const Value* NamespaceObject::Find(std::string_view name) const {
  for (const auto& [key, value] : attributes) {
    if (key == name) return &value;
  }
  return nullptr;
}

void NamespaceObject::Set(std::string_view name, Value value) {
  for (auto& [key, old] : attributes) {
    if (key == name) {
      old = std::move(value);
      return;
    }
  }
  attributes.emplace_back(name, std::move(value));
}

Heap::~Heap() {
  // Everything that could be part of a cycle, or of a long chain, is in kept_: once each has let go
  // of what it points to, the objects are freed one by one without deep recursion.
  for (const auto& object : kept_) object->Clear();
  kept_.clear();
}

void Heap::Adopt(Object* object, size_t bytes) {
  object->meter_ = &used_bytes_;
  object->metered_bytes_ = static_cast<int64_t>(bytes);
  used_bytes_ += object->metered_bytes_;
  if (used_bytes_ > max_bytes_ && status_.ok()) {
    status_ = absl::ResourceExhaustedError("the chat template uses too much memory");
  }
}

Value Heap::Str(std::string bytes) {
  Text text;
  text.bytes = std::move(bytes);
  return Str(std::move(text));
}

Value Heap::Str(Text text, bool markup) {
  auto object = std::make_shared<StrObject>();
  object->num_code_points = CountCodePoints(text.bytes);
  object->text = std::move(text);
  object->markup = markup;
  object->weight += static_cast<int64_t>(object->text.size() / 128);
  Adopt(object.get(),
        sizeof(StrObject) + object->text.bytes.capacity() +
            object->text.untrusted.capacity() * sizeof(TextSpan));
  return Value(Kind::kStr, std::move(object));
}

Value Heap::Seq(SeqType type, std::vector<Value> items) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth());
  auto object = std::make_shared<SeqObject>();
  object->type = type;
  object->items = std::move(items);
  object->depth = depth + 1;
  for (const Value& item : object->items) AddWeight(object.get(), item.weight());
  Adopt(object.get(), sizeof(SeqObject) + object->items.capacity() * sizeof(Value));
  if (object->depth > kMaxNesting) {
    if (status_.ok()) status_ = absl::ResourceExhaustedError("values are nested too deeply");
    return Value::None();
  }
  return Value(Kind::kSeq, std::move(object));
}

Value Heap::Iterator(std::vector<Value> items, absl::Status error) {
  Value value = Seq(SeqType::kIterator, std::move(items));
  if (value.IsSeq()) static_cast<SeqObject&>(*value.object()).error = std::move(error);
  return value;
}

Value Heap::Range(int64_t start, int64_t stop, int64_t step, size_t count) {
  std::vector<Value> items;
  items.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    items.push_back(Value::Int(start + static_cast<int64_t>(i) * step));
  }
  Value value = Seq(SeqType::kRange, std::move(items));
  auto& seq = static_cast<SeqObject&>(*value.object());
  seq.start = start;
  seq.stop = stop;
  seq.step = step;
  return value;
}

Value Heap::Undefined(std::string message) {
  auto object = std::make_shared<UndefinedObject>();
  object->message = std::move(message);
  Adopt(object.get(), sizeof(UndefinedObject) + object->message.capacity());
  return Value(Kind::kUndefined, std::move(object));
}

Value Heap::Dict(std::shared_ptr<DictObject> dict) {
  int depth = 0;
  for (const auto& [key, value] : dict->entries) {
    depth = std::max({depth, key.depth(), value.depth()});
    AddWeight(dict.get(), key.weight());
    AddWeight(dict.get(), value.weight());
  }
  dict->depth = depth + 1;
  Adopt(dict.get(), sizeof(DictObject) + dict->entries.capacity() * 2 * sizeof(Value) * 2);
  if (dict->depth > kMaxNesting) {
    if (status_.ok()) status_ = absl::ResourceExhaustedError("values are nested too deeply");
    return Value::None();
  }
  return Value(Kind::kDict, std::move(dict));
}

bool Truthy(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return value.AsInt() != 0;
    case Kind::kFloat:
      return value.AsDouble() != 0.0;
    case Kind::kStr:
      return !value.text().bytes.empty();
    case Kind::kSeq:
      return value.seq().type == SeqType::kIterator || !value.seq().items.empty();
    case Kind::kDict:
      return !value.dict().entries.empty();
    default:
      return true;
  }
}

bool Equals(const Value& a, const Value& b) {
  if (a.IsNumber() && b.IsNumber()) {
    if (a.IsInteger() && b.IsInteger()) return a.AsInt() == b.AsInt();
    return a.AsDouble() == b.AsDouble();
  }
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kStr:
      return a.view() == b.view();
    case Kind::kSeq: {
      if (a.object() == b.object()) return true;
      const SeqType x = a.seq().type;
      const SeqType y = b.seq().type;
      const bool comparable = (x == y && x != SeqType::kIterator && x != SeqType::kValues) ||
                              (IsTuple(x) && IsTuple(y));
      return comparable && SameItems(a.seq().items, b.seq().items);
    }
    case Kind::kDict:
      return a.object() == b.object() || SameDict(a.dict(), b.dict());
    default:
      return a.object() == b.object();
  }
}

bool IsHashable(const Value& value) {
  if (value.IsDict()) return false;
  if (!value.IsSeq()) return true;
  const SeqObject& seq = value.seq();
  switch (seq.type) {
    case SeqType::kTuple:
    case SeqType::kGroup:
      return std::all_of(seq.items.begin(), seq.items.end(), IsHashable);
    case SeqType::kRange:
    case SeqType::kIterator:
      return true;
    default:
      return false;
  }
}

size_t HashValue(const Value& value) {
  switch (value.kind()) {
    case Kind::kBool:
    case Kind::kInt:
      return std::hash<int64_t>()(value.AsInt());
    case Kind::kFloat: {
      const double d = value.AsDouble();
      // Equal numbers hash alike, whatever their type.
      if (std::floor(d) == d && std::fabs(d) < 9e18) {
        return std::hash<int64_t>()(static_cast<int64_t>(d));
      }
      return std::hash<double>()(d);
    }
    case Kind::kStr:
      return std::hash<std::string_view>()(value.view());
    case Kind::kSeq: {
      size_t hash = 0x9E3779B97F4A7C15u;
      if (value.seq().type == SeqType::kIterator) return hash;
      for (const Value& item : value.seq().items) hash = hash * 31 + HashValue(item);
      return hash;
    }
    default:
      return static_cast<size_t>(value.kind());
  }
}

std::string_view TypeName(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "None";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kStr:
      return "str";
    case Kind::kSeq:
      switch (value.seq().type) {
        case SeqType::kList:
          return "list";
        case SeqType::kRange:
          return "range";
        case SeqType::kItems:
          return "dict_items";
        case SeqType::kKeys:
          return "dict_keys";
        case SeqType::kValues:
          return "dict_values";
        case SeqType::kIterator:
          return "generator";
        default:
          return "tuple";
      }
    case Kind::kDict:
      return "dict";
    case Kind::kNamespace:
      return "Namespace";
    case Kind::kCallable:
      return "function";
    case Kind::kLoop:
      return "LoopContext";
  }
  return "object";
}

bool AnyUntrusted(const Value& value) {
  switch (value.kind()) {
    case Kind::kStr:
      return !value.text().untrusted.empty();
    case Kind::kSeq:
      return std::any_of(value.seq().items.begin(), value.seq().items.end(), AnyUntrusted);
    case Kind::kDict:
      return std::any_of(value.dict().entries.begin(), value.dict().entries.end(), [](auto& e) {
        return AnyUntrusted(e.first) || AnyUntrusted(e.second);
      });
    default:
      return value.untrusted_number();
  }
}

}  // namespace paceline::model
