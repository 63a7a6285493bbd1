// What filters, tests, methods and global functions are made of: the per-rendering context they run
// in, and the way arguments reach them. A Context belongs to one rendering and its thread.
#ifndef PACELINE_MODEL_CHAT_TEMPLATE_NATIVE_H_
#define PACELINE_MODEL_CHAT_TEMPLATE_NATIVE_H_

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/chat_template/value.h"

namespace paceline::model {

struct RenderLimits {
  int64_t max_steps = 20'000'000;              // evaluated nodes; 128 bytes of text count as one
  int max_depth = 400;                         // nested expressions, statements and macro calls
  size_t max_output_bytes = size_t{64} << 20;  // also of any single string
  int64_t max_memory_bytes = int64_t{512} << 20;
  size_t max_stack_bytes = size_t{400} << 10;
};

class Context {
 public:
  Context(const RenderLimits& limits, int64_t now_unix_seconds)
      : limits_(limits), now_unix_seconds_(now_unix_seconds), heap_(limits.max_memory_bytes) {
    stack_base_ = static_cast<const char*>(__builtin_frame_address(0));
  }

  Heap& heap() { return heap_; }
  const RenderLimits& limits() const { return limits_; }
  int64_t now_unix_seconds() const { return now_unix_seconds_; }

  // Counts `steps` evaluated nodes; ResourceExhausted once the budget, the memory or the stack is
  // used up.
  absl::Status Step(int64_t steps = 1);
  // Counts work on `bytes` bytes of text, and refuses a result longer than the output may be.
  absl::Status ChargeText(size_t bytes);
  // Counts work that looks at each character of `bytes` bytes of text.
  absl::Status ChargeCharacters(size_t bytes) {
    return Step(static_cast<int64_t>(bytes / kCharactersPerStep) + 1);
  }

  int depth = 0;

 private:
  static constexpr size_t kBytesPerStep = 128;
  static constexpr size_t kCharactersPerStep = 4;

  const RenderLimits limits_;
  const int64_t now_unix_seconds_;
  int64_t steps_ = 0;
  const char* stack_base_;
  Heap heap_;
};

struct CallArgs {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// `self` is the filtered or tested value, the object of a method, undefined for a function.
using NativeFn = absl::StatusOr<Value> (*)(Context& context, const Value& self, CallArgs& args);

// A fault of the template or its data: InvalidArgument.
absl::Status TemplateError(std::string_view message);

// Arguments by parameter name. After Bind, operator[] gives the value or nullptr where none was
// passed.
class Bound {
 public:
  // InvalidArgument for too many, too few (`required`), unknown or doubled arguments.
  static absl::StatusOr<Bound> Bind(std::string_view function,
                                    CallArgs& args,
                                    std::initializer_list<std::string_view> parameters,
                                    size_t required = 0);

  const Value* operator[](size_t parameter) const {
    return present_[parameter] ? &values_[parameter] : nullptr;
  }
  bool Has(size_t parameter) const { return present_[parameter]; }
  // The argument as an integer or truth value; the default where none was passed.
  absl::StatusOr<int64_t> Int(size_t parameter, int64_t default_value) const;
  bool Bool(size_t parameter, bool default_value) const;

 private:
  std::vector<Value> values_;
  std::vector<bool> present_;
};

// nullptr when there is none of this name.
NativeFn FindFilter(std::string_view name);
NativeFn FindTest(std::string_view name);
NativeFn FindGlobal(std::string_view name);
NativeFn FindStrMethod(std::string_view name);
NativeFn FindDictMethod(std::string_view name);
NativeFn FindSeqMethod(SeqType type, std::string_view name);
NativeFn FindLoopMethod(std::string_view name);

struct NativeEntry {
  std::string_view name;
  NativeFn function;
};
template <size_t N>
NativeFn FindNative(const NativeEntry (&table)[N], std::string_view name) {
  for (const NativeEntry& entry : table) {
    if (entry.name == name) return entry.function;
  }
  return nullptr;
}

}  // namespace paceline::model

#endif  // PACELINE_MODEL_CHAT_TEMPLATE_NATIVE_H_
