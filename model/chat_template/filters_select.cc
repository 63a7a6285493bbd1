// map, select, reject, selectattr, rejectattr. Like jinja2's they give a generator: it is always
// true, has no length and can be walked once; an error waits at the place where the walk meets it.
#include "model/chat_template/filters.h"
#include "model/chat_template/operators.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

// Applies `each` to the items until one fails; running out of a limit fails at once.
template <typename Each>
absl::StatusOr<Value> Generate(Context& context, const Value& self, Each each) {
  std::vector<Value> out;
  if (!Truthy(self)) return context.heap().Iterator({});
  absl::StatusOr<std::vector<Value>> items = Iterate(context, self);
  absl::Status status = items.status();
  if (status.ok()) {
    for (const Value& item : *items) {
      status = context.Step();
      if (status.ok()) status = each(item, &out);
      if (!status.ok()) break;
    }
  }
  if (absl::IsResourceExhausted(status)) return status;
  return context.heap().Iterator(std::move(out), std::move(status));
}

absl::StatusOr<Value> MapAttribute(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("map", args, {"attribute", "default"}));
  ASSIGN_OR_RETURN(const AttributePath path, AttributePath::Parse(context, *bound[0]));
  const Value* default_value = bound.Has(1) && !bound[1]->IsNone() ? bound[1] : nullptr;
  return Generate(context, self, [&](const Value& item, std::vector<Value>* out) -> absl::Status {
    ASSIGN_OR_RETURN(Value value, path.Get(context, item, default_value));
    out->push_back(std::move(value));
    return absl::OkStatus();
  });
}

absl::StatusOr<Value> Map(Context& context, const Value& self, CallArgs& args) {
  if (args.positional.empty()) {
    for (const auto& [name, value] : args.named) {
      if (name == "attribute") return MapAttribute(context, self, args);
    }
  }
  return Generate(context, self, [&](const Value& item, std::vector<Value>* out) -> absl::Status {
    if (args.positional.empty()) return TemplateError("map requires a filter argument");
    const Value& name = args.positional[0];
    const NativeFn filter = name.IsStr() ? FindFilter(name.view()) : nullptr;
    if (filter == nullptr) return TemplateError("map: no filter of this name");
    CallArgs rest;
    rest.positional.assign(args.positional.begin() + 1, args.positional.end());
    rest.named = args.named;
    ++context.depth;  // map may apply map
    absl::StatusOr<Value> value = filter(context, item, rest);
    --context.depth;
    RETURN_IF_ERROR(value.status());
    out->push_back(*std::move(value));
    return absl::OkStatus();
  });
}

absl::StatusOr<Value> Choose(
    Context& context, const Value& self, CallArgs& args, bool by_attribute, bool wanted) {
  return Generate(context, self, [&](const Value& item, std::vector<Value>* out) -> absl::Status {
    size_t next = 0;
    Value tested = item;
    if (by_attribute) {
      if (args.positional.empty()) return TemplateError("Missing parameter for attribute name");
      ASSIGN_OR_RETURN(const AttributePath path,
                       AttributePath::Parse(context, args.positional[next++]));
      ASSIGN_OR_RETURN(tested, path.Get(context, item));
    }
    bool holds = Truthy(tested);
    if (next < args.positional.size()) {
      const Value& name = args.positional[next++];
      const NativeFn test = name.IsStr() ? FindTest(name.view()) : nullptr;
      if (test == nullptr) return TemplateError("no test of this name");
      CallArgs rest;
      rest.positional.assign(args.positional.begin() + static_cast<ptrdiff_t>(next),
                             args.positional.end());
      rest.named = args.named;
      ASSIGN_OR_RETURN(const Value result, test(context, tested, rest));
      holds = Truthy(result);
    }
    if (holds == wanted) out->push_back(item);
    return absl::OkStatus();
  });
}

absl::StatusOr<Value> Select(Context& context, const Value& self, CallArgs& args) {
  return Choose(context, self, args, false, true);
}
absl::StatusOr<Value> Reject(Context& context, const Value& self, CallArgs& args) {
  return Choose(context, self, args, false, false);
}
absl::StatusOr<Value> SelectAttr(Context& context, const Value& self, CallArgs& args) {
  return Choose(context, self, args, true, true);
}
absl::StatusOr<Value> RejectAttr(Context& context, const Value& self, CallArgs& args) {
  return Choose(context, self, args, true, false);
}

constexpr NativeEntry kFilters[] = {
    {"map", Map},
    {"reject", Reject},
    {"rejectattr", RejectAttr},
    {"select", Select},
    {"selectattr", SelectAttr},
};

}  // namespace

NativeFn FindSelectFilter(std::string_view name) { return FindNative(kFilters, name); }

}  // namespace paceline::model
