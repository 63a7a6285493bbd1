#include "model/chat_template/chat_template.h"

#include <array>
#include <string_view>
#include <utility>

#include "model/chat_template/ast.h"
#include "model/chat_template/callable.h"
#include "model/chat_template/concat.h"
#include "model/chat_template/interpreter.h"
#include "model/chat_template/native.h"
#include "model/chat_template/parser.h"
#include "model/chat_template/value.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

constexpr int kMaxJsonNesting = 100;
constexpr std::array<std::string_view, 4> kReserved = {
    "messages", "tools", "documents", "add_generation_prompt"};

Value UntrustedStr(Context& context, const std::string& bytes) {
  TextBuilder text;
  text.Append(bytes, true);
  return context.heap().Str(std::move(text));
}

absl::StatusOr<Value> FromJson(Context& context, const nlohmann::ordered_json& json, int nesting) {
  if (nesting > kMaxJsonNesting) {
    return absl::InvalidArgumentError("the messages or tools are nested too deeply");
  }
  switch (json.type()) {
    case nlohmann::ordered_json::value_t::boolean:
      return Value::Bool(json.get<bool>());
    case nlohmann::ordered_json::value_t::number_integer:
      return Value::Int(json.get<int64_t>(), true);
    case nlohmann::ordered_json::value_t::number_unsigned: {
      const auto value = json.get<uint64_t>();
      if (value > uint64_t{INT64_MAX}) return Value::Float(static_cast<double>(value), true);
      return Value::Int(static_cast<int64_t>(value), true);
    }
    case nlohmann::ordered_json::value_t::number_float:
      return Value::Float(json.get<double>(), true);
    case nlohmann::ordered_json::value_t::string:
      return UntrustedStr(context, json.get_ref<const std::string&>());
    case nlohmann::ordered_json::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const auto& item : json) {
        ASSIGN_OR_RETURN(Value value, FromJson(context, item, nesting + 1));
        items.push_back(std::move(value));
      }
      return context.heap().List(std::move(items));
    }
    case nlohmann::ordered_json::value_t::object: {
      auto dict = std::make_shared<DictObject>();
      dict->entries.reserve(json.size());
      for (const auto& [key, item] : json.items()) {
        ASSIGN_OR_RETURN(Value value, FromJson(context, item, nesting + 1));
        dict->Set(UntrustedStr(context, key), std::move(value));
      }
      return context.heap().Dict(std::move(dict));
    }
    default:
      return Value::None();
  }
}

// Puts values into the slots of the names that the template mentions; others are never built.
class Globals {
 public:
  Globals(const Ast& ast, Context& context) : ast_(ast), context_(context) {
    slots_.resize(ast.names.size());
    for (size_t i = 0; i < ast.names.size(); ++i) {
      const std::string& name = ast.names[i];
      if (const NativeFn function = FindGlobal(name)) {
        slots_[i] = {true, MakeNative(context, name, function, Value())};
      }
    }
  }

  absl::Status SetJson(std::string_view name, const nlohmann::ordered_json* json) {
    Interpreter::Global* const slot = Slot(name);
    if (slot == nullptr) return absl::OkStatus();
    Value value = Value::None();
    if (json != nullptr) {
      ASSIGN_OR_RETURN(value, FromJson(context_, *json, 0));
    }
    *slot = {true, std::move(value)};
    return context_.heap().status();
  }

  void Set(std::string_view name, Value value) {
    if (Interpreter::Global* const slot = Slot(name)) *slot = {true, std::move(value)};
  }

  std::vector<Interpreter::Global> Take() && { return std::move(slots_); }

 private:
  Interpreter::Global* Slot(std::string_view name) {
    for (size_t i = 0; i < ast_.names.size(); ++i) {
      if (ast_.names[i] == name) return &slots_[i];
    }
    return nullptr;
  }

  const Ast& ast_;
  Context& context_;
  std::vector<Interpreter::Global> slots_;
};

absl::Status SetInputs(const ChatTemplate::Inputs& inputs, Context& context, Globals* globals) {
  static const nlohmann::ordered_json kNoMessages = nlohmann::ordered_json::array();
  RETURN_IF_ERROR(
      globals->SetJson("messages", inputs.messages != nullptr ? inputs.messages : &kNoMessages));
  RETURN_IF_ERROR(globals->SetJson("tools", inputs.tools));
  RETURN_IF_ERROR(globals->SetJson("documents", inputs.documents));
  globals->Set("add_generation_prompt", Value::Bool(inputs.add_generation_prompt));
  const std::pair<std::string_view, const std::optional<std::string>*> tokens[] = {
      {"bos_token", &inputs.bos_token},
      {"eos_token", &inputs.eos_token},
      {"unk_token", &inputs.unk_token},
      {"pad_token", &inputs.pad_token}};
  for (const auto& [name, token] : tokens) {
    if (token->has_value()) globals->Set(name, context.heap().Str(**token));
  }
  if (inputs.extra == nullptr || inputs.extra->is_null()) return absl::OkStatus();
  if (!inputs.extra->is_object()) {
    return absl::InvalidArgumentError("chat_template_kwargs must be an object");
  }
  for (const auto& [name, value] : inputs.extra->items()) {
    for (const std::string_view reserved : kReserved) {
      if (name == reserved) {
        return absl::InvalidArgumentError(Concat("chat_template_kwargs may not set ", reserved));
      }
    }
    RETURN_IF_ERROR(globals->SetJson(name, &value));
  }
  return absl::OkStatus();
}

RenderLimits ToRenderLimits(const ChatTemplate::Limits& limits) {
  return {.max_steps = limits.max_steps,
          .max_depth = limits.max_depth,
          .max_output_bytes = limits.max_output_bytes,
          .max_memory_bytes = limits.max_memory_bytes,
          .max_stack_bytes = limits.max_stack_bytes};
}

// The same error with the place in the template where it happened, unless it is the template's own.
absl::Status WithLine(const absl::Status& status, int line) {
  if (IsTemplateRaised(status)) return status;
  return absl::Status(status.code(), Concat("line ", line, ": ", std::string(status.message())));
}

}  // namespace

struct ChatTemplate::Program {
  std::unique_ptr<Ast> ast;
};

ChatTemplate::ChatTemplate(std::string source) : source_(std::move(source)) {}
ChatTemplate::~ChatTemplate() = default;

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Parse(std::string source) {
  ASSIGN_OR_RETURN(std::unique_ptr<Ast> ast, ParseTemplate(source));
  std::unique_ptr<ChatTemplate> result(new ChatTemplate(std::move(source)));
  auto program = std::make_unique<Program>();
  program->ast = std::move(ast);
  result->program_ = std::move(program);
  return result;
}

absl::StatusOr<RenderedPrompt> ChatTemplate::Render(const Inputs& inputs) const {
  // The context goes last: it owns what all values point to.
  Context context(ToRenderLimits(inputs.limits), inputs.now_unix_seconds);
  Globals globals(*program_->ast, context);
  RETURN_IF_ERROR(SetInputs(inputs, context, &globals));
  Interpreter interpreter(*program_->ast, context, std::move(globals).Take());
  absl::StatusOr<Text> text = interpreter.Run();
  if (!text.ok()) return WithLine(text.status(), interpreter.line());
  RenderedPrompt prompt;
  prompt.text = std::move(text->bytes);
  prompt.untrusted = std::move(text->untrusted);
  return prompt;
}

}  // namespace paceline::model
