// Methods of dicts, lists, tuples and the loop variable. None changes its object: the sandbox
// forbids that.
#include <algorithm>

#include "model/chat_template/callable.h"
#include "model/chat_template/concat.h"
#include "model/chat_template/operators.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

absl::StatusOr<Value> DictGet(Context& context, const Value& self, CallArgs& args) {
  if (!args.named.empty()) return TemplateError("dict.get() takes no keyword arguments");
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("get", args, {"key", "default"}, 1));
  RETURN_IF_ERROR(context.Step(bound[0]->weight()));
  if (!IsHashable(*bound[0])) {
    return TemplateError(Concat("unhashable type: '", TypeName(*bound[0]), "'"));
  }
  if (const Value* value = self.dict().Find(*bound[0])) return *value;
  return bound.Has(1) ? *bound[1] : Value::None();
}

absl::StatusOr<Value> DictItems(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("items", args, {}).status());
  RETURN_IF_ERROR(context.Step(static_cast<int64_t>(self.dict().entries.size())));
  std::vector<Value> items;
  items.reserve(self.dict().entries.size());
  for (const auto& [key, value] : self.dict().entries) {
    items.push_back(context.heap().Tuple({key, value}));
  }
  return context.heap().Seq(SeqType::kItems, std::move(items));
}

absl::StatusOr<Value> DictKeys(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("keys", args, {}).status());
  ASSIGN_OR_RETURN(std::vector<Value> keys, Iterate(context, self));
  return context.heap().Seq(SeqType::kKeys, std::move(keys));
}

absl::StatusOr<Value> DictValues(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("values", args, {}).status());
  RETURN_IF_ERROR(context.Step(static_cast<int64_t>(self.dict().entries.size())));
  std::vector<Value> values;
  values.reserve(self.dict().entries.size());
  for (const auto& [key, value] : self.dict().entries) values.push_back(value);
  return context.heap().Seq(SeqType::kValues, std::move(values));
}

// Values never change, so a copy is the value itself.
absl::StatusOr<Value> Copy(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("copy", args, {}).status());
  return self;
}

absl::StatusOr<Value> SeqCount(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("count", args, {"value"}, 1));
  RETURN_IF_ERROR(context.Step(self.weight()));
  const auto& items = self.seq().items;
  return Value::Int(std::count_if(
      items.begin(), items.end(), [&](const Value& item) { return Equals(item, *bound[0]); }));
}

absl::StatusOr<Value> SeqIndex(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("index", args, {"value", "start", "stop"}, 1));
  RETURN_IF_ERROR(context.Step(self.weight()));
  const auto& items = self.seq().items;
  const auto length = static_cast<int64_t>(items.size());
  ASSIGN_OR_RETURN(int64_t start, bound.Int(1, 0));
  ASSIGN_OR_RETURN(int64_t stop, bound.Int(2, length));
  if (start < 0) start = std::max<int64_t>(0, start + length);
  if (stop < 0) stop += length;
  for (int64_t i = start; i < std::min(stop, length); ++i) {
    if (Equals(items[static_cast<size_t>(i)], *bound[0])) return Value::Int(i);
  }
  return TemplateError("the value is not in the list");
}

absl::StatusOr<Value> LoopCycle(Context& context, const Value& self, CallArgs& args) {
  const auto& loop = static_cast<const LoopObject&>(*self.object());
  if (!args.named.empty()) return TemplateError("cycle() takes no keyword arguments");
  if (args.positional.empty()) return TemplateError("no items for cycling given");
  return args.positional[loop.index % args.positional.size()];
}

absl::StatusOr<Value> LoopChanged(Context& context, const Value& self, CallArgs& args) {
  auto& loop = static_cast<LoopObject&>(*self.object());
  if (!args.named.empty()) return TemplateError("changed() takes no keyword arguments");
  bool same = loop.has_changed && loop.changed.size() == args.positional.size();
  for (size_t i = 0; same && i < loop.changed.size(); ++i) {
    RETURN_IF_ERROR(context.Step(std::min(loop.changed[i].weight(), args.positional[i].weight())));
    same = Equals(loop.changed[i], args.positional[i]);
  }
  if (same) return Value::Bool(false);
  loop.has_changed = true;
  loop.changed = args.positional;
  return Value::Bool(true);
}

constexpr NativeEntry kDictMethods[] = {{"copy", Copy},
                                        {"get", DictGet},
                                        {"items", DictItems},
                                        {"keys", DictKeys},
                                        {"values", DictValues}};
constexpr NativeEntry kListMethods[] = {{"copy", Copy}, {"count", SeqCount}, {"index", SeqIndex}};
constexpr NativeEntry kTupleMethods[] = {{"count", SeqCount}, {"index", SeqIndex}};
constexpr NativeEntry kLoopMethods[] = {{"changed", LoopChanged}, {"cycle", LoopCycle}};

}  // namespace

NativeFn FindDictMethod(std::string_view name) { return FindNative(kDictMethods, name); }
NativeFn FindLoopMethod(std::string_view name) { return FindNative(kLoopMethods, name); }

NativeFn FindSeqMethod(SeqType type, std::string_view name) {
  if (type == SeqType::kList) return FindNative(kListMethods, name);
  return type <= SeqType::kRange ? FindNative(kTupleMethods, name) : nullptr;
}

}  // namespace paceline::model
