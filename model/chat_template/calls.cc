// Calls: native functions and methods, macros, and recursive loops.
#include "model/chat_template/concat.h"
#include "model/chat_template/interpreter.h"
#include "model/chat_template/operators.h"
#include "proto/support/status_macros.h"

namespace paceline::model {

absl::Status Interpreter::EvaluateArguments(const Arguments* args, Scope* scope, CallArgs* out) {
  if (args == nullptr) return absl::OkStatus();
  ASSIGN_OR_RETURN(out->positional, EvaluateAll(args->positional, scope));
  for (const auto& [name, expr] : args->named) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*expr, scope));
    out->named.emplace_back(name, std::move(value));
  }
  if (args->star != nullptr) {
    ASSIGN_OR_RETURN(const Value star, Evaluate(*args->star, scope));
    ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(context_, star));
    for (Value& item : items) out->positional.push_back(std::move(item));
  }
  if (args->star_star == nullptr) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Value named, Evaluate(*args->star_star, scope));
  if (!named.IsDict()) return TemplateError("argument after ** must be a mapping");
  for (const auto& [key, value] : named.dict().entries) {
    if (!key.IsStr()) return TemplateError("keywords must be strings");
    for (const auto& [name, other] : out->named) {
      if (name == key.view()) return TemplateError("got multiple values for a keyword argument");
    }
    RETURN_IF_ERROR(context_.Step(static_cast<int64_t>(out->named.size())));
    out->named.emplace_back(key.view(), value);
  }
  return absl::OkStatus();
}

absl::StatusOr<Value> Interpreter::Call(const Value& callee, CallArgs& args) {
  if (callee.IsUndefined()) return UndefinedError(callee);
  if (callee.Is(Kind::kLoop)) {
    return CallLoop(static_cast<const LoopObject&>(*callee.object()), args);
  }
  if (!callee.Is(Kind::kCallable)) {
    return TemplateError(Concat("'", TypeName(callee), "' object is not callable"));
  }
  const auto& callable = static_cast<const CallableObject&>(*callee.object());
  if (callable.native != nullptr) return callable.native(context_, callable.self, args);
  return CallMacro(callable, args);
}

absl::StatusOr<Value> Interpreter::CallMacro(const CallableObject& callee, CallArgs& args) {
  RETURN_IF_ERROR(context_.Step());
  const Macro& macro = *callee.macro;
  const auto scope = std::make_shared<Scope>();
  scope->parent = callee.scope;
  const int line = line_;
  ++context_.depth;
  absl::Status status = BindMacro(macro, args, scope.get());
  TextBuilder caught;
  if (status.ok()) {
    TextBuilder* const outer = out_;
    out_ = &caught;
    Flow flow = Flow::kNormal;
    status = Execute(macro.body, scope.get(), &flow);
    out_ = outer;
  }
  --context_.depth;
  RETURN_IF_ERROR(status);
  line_ = line;
  RETURN_IF_ERROR(context_.ChargeText(caught.size()));
  return context_.heap().Str(std::move(caught));
}

absl::Status Interpreter::BindMacro(const Macro& macro, CallArgs& args, Scope* scope) {
  const size_t num_parameters = macro.parameters.size();
  bool caller_is_parameter = false;
  for (size_t i = 0; i < num_parameters; ++i) {
    caller_is_parameter = caller_is_parameter || macro.parameters[i] == ast_.caller;
    if (i < args.positional.size()) {
      scope->Set(macro.parameters[i], args.positional[i]);
      continue;
    }
    bool found = false;
    for (auto it = args.named.begin(); it != args.named.end(); ++it) {
      if (it->first != macro.parameter_names[i]) continue;
      scope->Set(macro.parameters[i], std::move(it->second));
      args.named.erase(it);
      found = true;
      break;
    }
    if (found) continue;
    if (macro.defaults[i] != nullptr) {
      ASSIGN_OR_RETURN(Value value, Evaluate(*macro.defaults[i], scope));
      scope->Set(macro.parameters[i], std::move(value));
    } else {
      scope->Set(macro.parameters[i],
                 context_.heap().Undefined(
                     Concat("parameter '", macro.parameter_names[i], "' was not provided")));
    }
  }
  if (macro.uses_caller && !caller_is_parameter) {
    Value caller = context_.heap().Undefined("No caller defined");
    for (auto it = args.named.begin(); it != args.named.end(); ++it) {
      if (it->first != "caller") continue;
      caller = std::move(it->second);
      args.named.erase(it);
      break;
    }
    scope->Set(ast_.caller, std::move(caller));
  }
  if (macro.uses_kwargs) {
    auto kwargs = std::make_shared<DictObject>();
    for (auto& [name, value] : args.named) {
      kwargs->Set(context_.heap().Str(name), std::move(value));
    }
    scope->Set(ast_.kwargs, context_.heap().Dict(std::move(kwargs)));
  } else if (!args.named.empty()) {
    return TemplateError(Concat("macro '",
                                macro.name,
                                "' takes no keyword argument '",
                                args.named[0].first.substr(0, 80),
                                "'"));
  }
  std::vector<Value> rest;
  for (size_t i = num_parameters; i < args.positional.size(); ++i) {
    rest.push_back(args.positional[i]);
  }
  if (macro.uses_varargs) {
    scope->Set(ast_.varargs, context_.heap().Tuple(std::move(rest)));
  } else if (!rest.empty()) {
    return TemplateError(
        Concat("macro '", macro.name, "' takes not more than ", num_parameters, " argument(s)"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Value> Interpreter::CallLoop(const LoopObject& loop, CallArgs& args) {
  if (loop.recursive == nullptr) {
    return TemplateError("The loop must have the 'recursive' marker to be called recursively.");
  }
  if (args.positional.size() != 1 || !args.named.empty()) {
    return TemplateError("loop() takes one argument");
  }
  const Stmt& stmt = *loop.recursive;
  Scope* const scope = loop.scope;
  const int depth0 = loop.depth0 + 1;
  ASSIGN_OR_RETURN(std::vector<Value> items, LoopItems(stmt, args.positional[0], scope));
  TextBuilder caught;
  TextBuilder* const outer = out_;
  out_ = &caught;
  const absl::Status status = RunLoop(stmt, std::move(items), depth0, scope);
  out_ = outer;
  RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(context_.ChargeText(caught.size()));
  return context_.heap().Str(std::move(caught));
}

}  // namespace paceline::model
