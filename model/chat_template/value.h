// The values a template computes with: Python's None, bool, int, float, str, list, tuple, dict and
// the few objects that jinja2 adds. A Value is cheap to copy; what it points to belongs to the Heap
// of one rendering (constants: to the parsed template) and must not outlive it. Heap values are
// used by one thread; constants are immutable and shared by all.
#ifndef PACELINE_MODEL_CHAT_TEMPLATE_VALUE_H_
#define PACELINE_MODEL_CHAT_TEMPLATE_VALUE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "model/chat_template/text.h"

namespace paceline::model {

enum class Kind : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kStr,
  kSeq,
  kDict,
  kNamespace,
  kCallable,
  kLoop,
};

class Heap;

// Base of everything on the heap: gives its bytes back to the meter when it goes.
class Object {
 public:
  Object() = default;
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  virtual ~Object() {
    if (meter_ != nullptr) *meter_ -= metered_bytes_;
  }
  // Drops references to other objects, so that cycles through mutable objects end.
  virtual void Clear() {}

  // Nesting below this object; 0 for leaves and for mutable objects, which the heap keeps alive.
  int depth = 0;
  // How many values hang below, shared ones counted each time: what a walk over all of it costs.
  int64_t weight = 1;

 private:
  friend class Heap;
  int64_t* meter_ = nullptr;
  int64_t metered_bytes_ = 0;
};

struct StrObject;
struct SeqObject;
struct DictObject;

class Value {
 public:
  Value() : int_(0) {}  // undefined, with no name
  static Value None() { return Value(Kind::kNone); }
  static Value Bool(bool b) {
    Value v(Kind::kBool);
    v.int_ = b ? 1 : 0;
    return v;
  }
  static Value Int(int64_t i, bool untrusted = false) {
    Value v(Kind::kInt);
    v.int_ = i;
    v.untrusted_ = untrusted;
    return v;
  }
  static Value Float(double d, bool untrusted = false) {
    Value v(Kind::kFloat);
    v.float_ = d;
    v.untrusted_ = untrusted;
    return v;
  }
  Value(Kind kind, std::shared_ptr<Object> object)
      : kind_(kind), int_(0), object_(std::move(object)) {}

  Kind kind() const { return kind_; }
  bool Is(Kind kind) const { return kind_ == kind; }
  bool IsUndefined() const { return kind_ == Kind::kUndefined; }
  bool IsNone() const { return kind_ == Kind::kNone; }
  bool IsStr() const { return kind_ == Kind::kStr; }
  bool IsDict() const { return kind_ == Kind::kDict; }
  bool IsSeq() const { return kind_ == Kind::kSeq; }
  bool IsInteger() const { return kind_ == Kind::kInt || kind_ == Kind::kBool; }
  bool IsNumber() const { return IsInteger() || kind_ == Kind::kFloat; }

  // REQUIRES: IsInteger() for AsInt, IsNumber() for AsDouble, the kind for the others.
  bool AsBool() const { return int_ != 0; }
  int64_t AsInt() const { return int_; }
  double AsDouble() const { return kind_ == Kind::kFloat ? float_ : static_cast<double>(int_); }
  const StrObject& str() const;
  const Text& text() const;
  std::string_view view() const { return text().bytes; }
  const SeqObject& seq() const;
  const DictObject& dict() const;
  const std::shared_ptr<Object>& object() const { return object_; }

  // Whether a number came from the request. (Strings know it byte by byte.)
  bool untrusted_number() const { return untrusted_; }
  int depth() const { return object_ == nullptr ? 0 : object_->depth; }
  int64_t weight() const { return object_ == nullptr ? 1 : object_->weight; }

 private:
  explicit Value(Kind kind) : kind_(kind), int_(0) {}

  Kind kind_ = Kind::kUndefined;
  bool untrusted_ = false;
  union {
    int64_t int_;
    double float_;
  };
  std::shared_ptr<Object> object_;
};

struct StrObject final : Object {
  Text text;
  size_t num_code_points = 0;
  bool markup = false;  // jinja2's Markup: already escaped

  bool ascii() const { return num_code_points == text.bytes.size(); }
};

enum class SeqType : uint8_t {
  kList,
  kTuple,
  kGroup,  // the tuple that groupby yields, with .grouper and .list
  kRange,
  kItems,
  kKeys,
  kValues,
  kIterator,  // a generator: always true, has no length, is used up by one pass
};

struct SeqObject final : Object {
  SeqType type = SeqType::kList;
  std::vector<Value> items;
  size_t position = 0;  // kIterator: how much has been consumed
  absl::Status error;   // kIterator: raised after the last item
  int64_t start = 0;    // kRange
  int64_t stop = 0;     // kRange
  int64_t step = 1;     // kRange
};

struct DictObject final : Object {
  std::vector<std::pair<Value, Value>> entries;  // in insertion order

  // nullptr when absent. REQUIRES: IsHashable(key).
  const Value* Find(const Value& key) const;
  const Value* Find(std::string_view key) const;
  // Adds or replaces. REQUIRES: IsHashable(key).
  void Set(const Value& key, Value value);

 private:
  size_t Position(const Value& key) const;  // entries.size() when absent

  std::unordered_multimap<size_t, size_t> index_;  // filled once there are more than a few entries
};

struct NamespaceObject final : Object {
  std::vector<std::pair<std::string, Value>> attributes;
  void Clear() override { attributes.clear(); }
  const Value* Find(std::string_view name) const;
  void Set(std::string_view name, Value value);
};

// What an undefined value says when a template uses it.
struct UndefinedObject final : Object {
  std::string message;
};

// The objects of one rendering: counts their bytes, limits their nesting, and breaks their cycles.
// Over a limit it remembers the error, which the interpreter looks at before its next step.
class Heap {
 public:
  explicit Heap(int64_t max_bytes) : max_bytes_(max_bytes) {}
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;
  ~Heap();

  Value Str(std::string bytes);  // trusted
  Value Str(Text text, bool markup = false);
  Value Str(TextBuilder builder) { return Str(std::move(builder).Take()); }
  Value Seq(SeqType type, std::vector<Value> items);
  Value List(std::vector<Value> items) { return Seq(SeqType::kList, std::move(items)); }
  Value Tuple(std::vector<Value> items) { return Seq(SeqType::kTuple, std::move(items)); }
  Value Iterator(std::vector<Value> items, absl::Status error = absl::OkStatus());
  Value Range(int64_t start, int64_t stop, int64_t step, size_t count);
  Value Undefined(std::string message);
  // Takes over a dict that is complete. Value::None() once nested too deeply.
  Value Dict(std::shared_ptr<DictObject> dict);

  // Meters `object` and, when it can be changed later, keeps it until the rendering ends.
  void Adopt(Object* object, size_t bytes);
  void Keep(std::shared_ptr<Object> object) { kept_.push_back(std::move(object)); }

  // OK, or ResourceExhausted once a limit was passed.
  const absl::Status& status() const { return status_; }

 private:
  int64_t max_bytes_;
  int64_t used_bytes_ = 0;
  absl::Status status_;
  std::vector<std::shared_ptr<Object>> kept_;
};

bool Truthy(const Value& value);
// Python's ==. Objects other than containers compare by identity.
bool Equals(const Value& a, const Value& b);
bool IsHashable(const Value& value);
size_t HashValue(const Value& value);
// Python's type name, as error messages have it.
std::string_view TypeName(const Value& value);
// Whether any text or number inside came from the request.
bool AnyUntrusted(const Value& value);

inline const StrObject& Value::str() const { return static_cast<const StrObject&>(*object_); }
inline const Text& Value::text() const { return str().text; }
inline const SeqObject& Value::seq() const { return static_cast<const SeqObject&>(*object_); }
inline const DictObject& Value::dict() const { return static_cast<const DictObject&>(*object_); }

}  // namespace paceline::model

#endif  // PACELINE_MODEL_CHAT_TEMPLATE_VALUE_H_
