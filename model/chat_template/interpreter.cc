// Statements.
#include "model/chat_template/interpreter.h"

#include "model/chat_template/concat.h"
#include "model/chat_template/operators.h"
#include "model/chat_template/value_text.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {
// What a kept scope and its variables take, roughly.
constexpr size_t kScopeBytes = 512;
}  // namespace

void Scope::Set(int name, Value value) {
  for (auto& [other, old] : variables) {
    if (other == name) {
      old = std::move(value);
      return;
    }
  }
  variables.emplace_back(name, std::move(value));
}

const Value* Scope::Find(int name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent) {
    for (const auto& [other, value] : scope->variables) {
      if (other == name) return &value;
    }
  }
  return nullptr;
}

Interpreter::Interpreter(const Ast& ast, Context& context, std::vector<Global> globals)
    : ast_(ast), context_(context), globals_(std::move(globals)) {}

absl::StatusOr<Text> Interpreter::Run() {
  TextBuilder out;
  out_ = &out;
  // Scopes belong to shared pointers because a macro may outlive the scope it was defined in.
  const auto root = std::make_shared<Scope>();
  Flow flow = Flow::kNormal;
  RETURN_IF_ERROR(Execute(ast_.body, root.get(), &flow));
  RETURN_IF_ERROR(context_.Step());
  return std::move(out).Take();
}

absl::Status Interpreter::Execute(const Body& body, Scope* scope, Flow* flow) {
  for (const auto& stmt : body) {
    line_ = stmt->line;
    RETURN_IF_ERROR(context_.Step());
    RETURN_IF_ERROR(ExecuteOne(*stmt, scope, flow));
    if (*flow != Flow::kNormal) break;
  }
  return absl::OkStatus();
}

absl::Status Interpreter::ExecuteOne(const Stmt& stmt, Scope* scope, Flow* flow) {
  switch (stmt.type) {
    case StmtType::kData:
      RETURN_IF_ERROR(context_.ChargeText(stmt.text.size()));
      out_->Append(stmt.text);
      if (out_->size() > context_.limits().max_output_bytes) {
        return context_.ChargeText(out_->size());
      }
      return absl::OkStatus();
    case StmtType::kOutput: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*stmt.expr, scope));
      return Print(value);
    }
    case StmtType::kSet:
    case StmtType::kSetBlock:
      return ExecuteSet(stmt, scope);
    case StmtType::kFor:
      return ExecuteFor(stmt, scope);
    case StmtType::kIf:
      return ExecuteIf(stmt, scope, flow);
    case StmtType::kMacro:
      return ExecuteMacro(stmt, scope);
    case StmtType::kCallBlock:
      return ExecuteCallBlock(stmt, scope);
    case StmtType::kFilter: {
      ASSIGN_OR_RETURN(const Value text, Capture(stmt.body, scope));
      ASSIGN_OR_RETURN(const Value value, ApplyFilters(*stmt.expr, text, scope));
      return Print(value);
    }
    case StmtType::kScope:
      return ExecuteScope(stmt, scope);
    case StmtType::kBreak:
      *flow = Flow::kBreak;
      return absl::OkStatus();
    case StmtType::kContinue:
      *flow = Flow::kContinue;
      return absl::OkStatus();
  }
  return absl::OkStatus();
}

absl::Status Interpreter::Print(const Value& value) {
  RETURN_IF_ERROR(AppendStr(context_, value, out_));
  return out_->size() > context_.limits().max_output_bytes ? context_.ChargeText(out_->size())
                                                           : absl::OkStatus();
}

absl::StatusOr<Value> Interpreter::Capture(const Body& body, Scope* scope) {
  TextBuilder caught;
  TextBuilder* const outer = out_;
  out_ = &caught;
  const auto inner = std::make_shared<Scope>();
  inner->parent = scope;
  Flow flow = Flow::kNormal;
  ++context_.depth;
  const absl::Status status = Execute(body, inner.get(), &flow);
  --context_.depth;
  out_ = outer;
  RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(context_.ChargeText(caught.size()));
  return context_.heap().Str(std::move(caught));
}

absl::Status Interpreter::ExecuteIf(const Stmt& stmt, Scope* scope, Flow* flow) {
  for (const Branch& branch : stmt.branches) {
    if (branch.test != nullptr) {
      ASSIGN_OR_RETURN(const Value test, Evaluate(*branch.test, scope));
      if (!Truthy(test)) continue;
    }
    ++context_.depth;
    const absl::Status status = Execute(branch.body, scope, flow);
    --context_.depth;
    return status;
  }
  return absl::OkStatus();
}

absl::Status Interpreter::ExecuteSet(const Stmt& stmt, Scope* scope) {
  if (stmt.type == StmtType::kSet) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*stmt.expr, scope));
    return Assign(stmt.target, std::move(value), scope);
  }
  ASSIGN_OR_RETURN(Value value, Capture(stmt.body, scope));
  if (stmt.expr != nullptr) {
    ASSIGN_OR_RETURN(value, ApplyFilters(*stmt.expr, value, scope));
  }
  return Assign(stmt.target, std::move(value), scope);
}

absl::Status Interpreter::Assign(const Target& target, Value value, Scope* scope) {
  if (target.tuple) {
    ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(context_, value));
    if (value.IsUndefined()) return UndefinedError(value);
    if (items.size() != target.items.size()) {
      return TemplateError(
          items.size() < target.items.size()
              ? Concat("not enough values to unpack (expected ",
                       target.items.size(),
                       ", got ",
                       items.size(),
                       ")")
              : Concat("too many values to unpack (expected ", target.items.size(), ")"));
    }
    for (size_t i = 0; i < items.size(); ++i) {
      RETURN_IF_ERROR(Assign(target.items[i], std::move(items[i]), scope));
    }
    return absl::OkStatus();
  }
  if (target.attribute.empty()) {
    scope->Set(target.name, std::move(value));
    return absl::OkStatus();
  }
  const Value* object = scope->Find(target.name);
  if (object == nullptr && globals_[static_cast<size_t>(target.name)].present) {
    object = &globals_[static_cast<size_t>(target.name)].value;
  }
  if (object == nullptr || !object->Is(Kind::kNamespace)) {
    return TemplateError("cannot assign attribute on non-namespace object");
  }
  if (target.attribute[0] == '_') {
    return TemplateError("a namespace cannot hold attributes that start with an underscore");
  }
  static_cast<NamespaceObject&>(*object->object()).Set(target.attribute, std::move(value));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Value>> Interpreter::LoopItems(const Stmt& stmt,
                                                          const Value& from,
                                                          Scope* scope) {
  ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(context_, from));
  if (stmt.condition == nullptr) return items;
  const auto inner = std::make_shared<Scope>();
  inner->parent = scope;
  std::vector<Value> kept;
  for (Value& item : items) {
    RETURN_IF_ERROR(context_.Step());
    RETURN_IF_ERROR(Assign(stmt.target, item, inner.get()));
    ASSIGN_OR_RETURN(const Value test, Evaluate(*stmt.condition, inner.get()));
    if (Truthy(test)) kept.push_back(std::move(item));
  }
  return kept;
}

absl::Status Interpreter::ExecuteFor(const Stmt& stmt, Scope* scope) {
  ASSIGN_OR_RETURN(const Value from, Evaluate(*stmt.expr, scope));
  ASSIGN_OR_RETURN(std::vector<Value> items, LoopItems(stmt, from, scope));
  return RunLoop(stmt, std::move(items), 0, scope);
}

absl::Status Interpreter::RunLoop(const Stmt& stmt,
                                  std::vector<Value> items,
                                  int depth0,
                                  Scope* scope) {
  Flow flow = Flow::kNormal;
  auto inner = std::make_shared<Scope>();
  inner->parent = scope;
  ++context_.depth;
  absl::Status status;
  // As in jinja2, `else` runs unless some iteration reached the end of the body.
  bool completed = false;
  std::shared_ptr<LoopObject> loop;
  if (stmt.uses_loop && !items.empty()) {
    loop = std::make_shared<LoopObject>();
    loop->all = items;
    loop->depth0 = depth0;
    loop->scope = scope;
    if (stmt.recursive) {
      loop->recursive = &stmt;
      KeepChain(scope);
    }
    context_.heap().Adopt(loop.get(), sizeof(LoopObject) + items.size() * sizeof(Value));
  }
  for (size_t i = 0; i < items.size(); ++i) {
    status = context_.Step();
    if (!status.ok()) break;
    if (inner->kept) {
      inner = std::make_shared<Scope>();
      inner->parent = scope;
    } else {
      inner->variables.clear();
    }
    if (loop != nullptr) {
      loop->index = i;
      inner->variables.emplace_back(ast_.loop, Value(Kind::kLoop, loop));
    }
    status = Assign(stmt.target, std::move(items[i]), inner.get());
    if (status.ok()) status = Execute(stmt.body, inner.get(), &flow);
    completed = completed || flow == Flow::kNormal;
    if (!status.ok() || flow == Flow::kBreak) break;
    flow = Flow::kNormal;
  }
  if (!inner->kept) inner->variables.clear();
  // One that something still refers to may become part of a cycle.
  if (loop != nullptr && loop.use_count() > 1) context_.heap().Keep(loop);
  if (status.ok() && !completed) {
    const auto other = std::make_shared<Scope>();
    other->parent = scope;
    flow = Flow::kNormal;
    status = Execute(stmt.else_body, other.get(), &flow);
  }
  --context_.depth;
  return status;
}

void Interpreter::KeepChain(Scope* scope) {
  for (; scope != nullptr && !scope->kept; scope = scope->parent) {
    scope->kept = true;
    context_.heap().Adopt(scope, kScopeBytes);
    context_.heap().Keep(scope->shared_from_this());
  }
}

Value Interpreter::MakeMacro(const Macro& macro, Scope* scope) {
  KeepChain(scope);
  auto object = std::make_shared<CallableObject>();
  object->name = macro.name;
  object->macro = &macro;
  object->scope = scope;
  context_.heap().Adopt(object.get(), sizeof(CallableObject));
  return Value(Kind::kCallable, std::move(object));
}

absl::Status Interpreter::ExecuteMacro(const Stmt& stmt, Scope* scope) {
  scope->Set(stmt.target.name, MakeMacro(*stmt.macro, scope));
  return absl::OkStatus();
}

absl::Status Interpreter::ExecuteCallBlock(const Stmt& stmt, Scope* scope) {
  ASSIGN_OR_RETURN(const Value callee, Evaluate(*stmt.expr->a, scope));
  CallArgs args;
  RETURN_IF_ERROR(EvaluateArguments(stmt.expr->args.get(), scope, &args));
  args.named.emplace_back("caller", MakeMacro(*stmt.macro, scope));
  ASSIGN_OR_RETURN(const Value result, Call(callee, args));
  return Print(result);
}

absl::Status Interpreter::ExecuteScope(const Stmt& stmt, Scope* scope) {
  const auto inner = std::make_shared<Scope>();
  inner->parent = scope;
  for (const auto& [target, expr] : stmt.with) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*expr, scope));
    RETURN_IF_ERROR(Assign(target, std::move(value), inner.get()));
  }
  Flow flow = Flow::kNormal;
  ++context_.depth;
  const absl::Status status = Execute(stmt.body, inner.get(), &flow);
  --context_.depth;
  return status;
}

}  // namespace paceline::model
