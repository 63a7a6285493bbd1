// Runs a parsed template once. Made for one rendering, used by its thread only.
#ifndef PACELINE_MODEL_CHAT_TEMPLATE_INTERPRETER_H_
#define PACELINE_MODEL_CHAT_TEMPLATE_INTERPRETER_H_

#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/chat_template/ast.h"
#include "model/chat_template/callable.h"
#include "model/chat_template/native.h"
#include "model/chat_template/value.h"

namespace paceline::model {

// The variables that one stretch of the template sees, then those around it.
struct Scope final : Object, std::enable_shared_from_this<Scope> {
  Scope* parent = nullptr;
  bool kept = false;  // the heap holds it until the rendering ends
  std::vector<std::pair<int, Value>> variables;

  void Set(int name, Value value);
  const Value* Find(int name) const;  // here or around; nullptr when nowhere
  void Clear() override { variables.clear(); }
};

class Interpreter {
 public:
  // `globals` holds, for each of ast.names, the value passed in or an absent one.
  struct Global {
    bool present = false;
    Value value;
  };
  Interpreter(const Ast& ast, Context& context, std::vector<Global> globals);

  absl::StatusOr<Text> Run();
  // Where the rendering was when it failed.
  int line() const { return line_; }

 private:
  enum class Flow { kNormal, kBreak, kContinue };

  // interpreter.cc: statements. Each sets *flow when a loop is to be left or continued.
  absl::Status Execute(const Body& body, Scope* scope, Flow* flow);
  absl::Status ExecuteOne(const Stmt& stmt, Scope* scope, Flow* flow);
  absl::Status ExecuteIf(const Stmt& stmt, Scope* scope, Flow* flow);
  absl::Status ExecuteFor(const Stmt& stmt, Scope* scope);
  absl::Status ExecuteSet(const Stmt& stmt, Scope* scope);
  absl::Status ExecuteMacro(const Stmt& stmt, Scope* scope);
  absl::Status ExecuteCallBlock(const Stmt& stmt, Scope* scope);
  absl::Status ExecuteScope(const Stmt& stmt, Scope* scope);
  absl::Status RunLoop(const Stmt& stmt, std::vector<Value> items, int depth0, Scope* scope);
  absl::StatusOr<std::vector<Value>> LoopItems(const Stmt& stmt, const Value& from, Scope* scope);
  absl::Status Assign(const Target& target, Value value, Scope* scope);
  absl::Status Print(const Value& value);
  // Runs `body` in a scope of its own with its output caught.
  absl::StatusOr<Value> Capture(const Body& body, Scope* scope);
  Value MakeMacro(const Macro& macro, Scope* scope);
  void KeepChain(Scope* scope);

  // calls.cc
  absl::StatusOr<Value> Call(const Value& callee, CallArgs& args);
  absl::StatusOr<Value> CallMacro(const CallableObject& callee, CallArgs& args);
  absl::Status BindMacro(const Macro& macro, CallArgs& args, Scope* scope);
  absl::StatusOr<Value> CallLoop(const LoopObject& loop, CallArgs& args);
  absl::Status EvaluateArguments(const Arguments* args, Scope* scope, CallArgs* out);

  // evaluate.cc: expressions.
  absl::StatusOr<Value> Evaluate(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> Dispatch(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> EvaluateName(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> EvaluateDict(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> EvaluateSlice(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> EvaluateBinary(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> EvaluateConcat(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> EvaluateCompare(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> EvaluateLogical(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> EvaluateConditional(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> EvaluateCall(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> EvaluateNative(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> EvaluateSubscript(const Expr& expr, Scope* scope);
  absl::StatusOr<std::vector<Value>> EvaluateAll(const std::vector<ExprPtr>& items, Scope* scope);
  // A filter, on `value` instead of its own left side where that is absent.
  absl::StatusOr<Value> ApplyFilters(const Expr& expr, const Value& value, Scope* scope);

  const Ast& ast_;
  Context& context_;
  std::vector<Global> globals_;
  TextBuilder* out_ = nullptr;
  int line_ = 1;
};

}  // namespace paceline::model

#endif  // PACELINE_MODEL_CHAT_TEMPLATE_INTERPRETER_H_
