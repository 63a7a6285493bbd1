// The heap objects that the interpreter itself needs: what can be called, and the `loop` variable.
// Used by the thread of one rendering.
#ifndef PACELINE_MODEL_CHAT_TEMPLATE_CALLABLE_H_
#define PACELINE_MODEL_CHAT_TEMPLATE_CALLABLE_H_

#include <cstddef>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "model/chat_template/native.h"
#include "model/chat_template/value.h"

namespace paceline::model {

struct Macro;
struct Stmt;
struct Scope;

struct CallableObject final : Object {
  std::string_view name;
  NativeFn native = nullptr;  // nullptr: a macro
  Value self;                 // the object of a bound method
  const Macro* macro = nullptr;
  Scope* scope = nullptr;  // where the macro was defined; the interpreter keeps it alive
};

struct LoopObject final : Object {
  std::vector<Value> all;  // what is looped over
  size_t index = 0;        // from 0
  int depth0 = 0;
  bool has_changed = false;    // loop.changed() was called
  std::vector<Value> changed;  // its last arguments
  const Stmt* recursive = nullptr;
  Scope* scope = nullptr;  // where the loop stands

  const std::vector<Value>& items() const { return all; }
  void Clear() override {
    all.clear();
    changed.clear();
  }
};

// A callable that runs `function` with `self`.
Value MakeNative(Context& context, std::string_view name, NativeFn function, Value self);

}  // namespace paceline::model

#endif  // PACELINE_MODEL_CHAT_TEMPLATE_CALLABLE_H_
