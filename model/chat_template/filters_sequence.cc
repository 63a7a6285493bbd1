// Filters on sequences: ordering, grouping, taking apart and putting together.
#include <algorithm>

#include "model/chat_template/concat.h"
#include "model/chat_template/filters.h"
#include "model/chat_template/operators.h"
#include "model/chat_template/str_methods.h"
#include "model/chat_template/value_text.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

absl::StatusOr<Value> LengthFilter(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("length", args, {}).status());
  ASSIGN_OR_RETURN(const int64_t length, Length(self));
  return Value::Int(length);
}

absl::StatusOr<Value> First(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("first", args, {}).status());
  if (self.IsSeq()) {
    auto& seq = static_cast<SeqObject&>(*self.object());
    const bool iterator = seq.type == SeqType::kIterator;
    const size_t at = iterator ? seq.position : 0;
    if (at < seq.items.size()) {
      if (iterator) ++seq.position;
      return seq.items[at];
    }
    if (iterator) RETURN_IF_ERROR(seq.error);
  } else if (self.IsStr() && !self.view().empty()) {
    size_t bytes = 0;
    return CharAt(context, self.text(), 0, &bytes);
  } else {
    ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(context, self));
    if (!items.empty()) return items.front();
  }
  return context.heap().Undefined("No first item, sequence was empty.");
}

absl::Status CheckReversible(const Value& self) {
  const bool iterator = self.IsSeq() && self.seq().type == SeqType::kIterator;
  if (self.IsUndefined() || self.IsStr() || self.IsDict() || (self.IsSeq() && !iterator)) {
    return absl::OkStatus();
  }
  return TemplateError(Concat("'", TypeName(self), "' object is not reversible"));
}

absl::StatusOr<Value> Last(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("last", args, {}).status());
  RETURN_IF_ERROR(CheckReversible(self));
  if (self.IsStr() && !self.view().empty()) return GetItem(context, self, Value::Int(-1));
  if (self.IsSeq() && !self.seq().items.empty()) return self.seq().items.back();
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(context, self));
  if (!items.empty()) return items.back();
  return context.heap().Undefined("No last item, sequence was empty.");
}

absl::StatusOr<Value> Reverse(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("reverse", args, {}).status());
  if (self.IsStr()) return Slice(context, self, Value::None(), Value::None(), Value::Int(-1));
  const bool generator = self.IsSeq() && self.seq().type == SeqType::kIterator;
  ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(context, self));
  std::reverse(items.begin(), items.end());
  if (generator) return context.heap().List(std::move(items));
  return context.heap().Iterator(std::move(items));
}

absl::StatusOr<Value> List(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("list", args, {}).status());
  ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(context, self));
  return context.heap().List(std::move(items));
}

absl::StatusOr<Value> Join(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("join", args, {"d", "attribute"}));
  Value separator = context.heap().Str("");
  if (bound.Has(0)) {
    ASSIGN_OR_RETURN(separator, ToStr(context, *bound[0]));
  }
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(context, self));
  ASSIGN_OR_RETURN(const AttributePath path,
                   AttributePath::Parse(context, bound.Has(1) ? *bound[1] : Value::None()));
  TextBuilder out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) RETURN_IF_ERROR(AppendStr(context, separator, &out));
    ASSIGN_OR_RETURN(const Value item, path.Get(context, items[i]));
    RETURN_IF_ERROR(AppendStr(context, item, &out));
  }
  RETURN_IF_ERROR(context.ChargeText(out.size()));
  return context.heap().Str(std::move(out));
}

// The key by which an item is sorted, compared or told apart.
absl::StatusOr<Value> KeyOf(Context& context,
                            const AttributePath& path,
                            const Value& item,
                            bool case_sensitive,
                            const Value* default_value = nullptr) {
  ASSIGN_OR_RETURN(Value key, path.Get(context, item, default_value));
  if (case_sensitive) return key;
  return IgnoreCase(context, key);
}

absl::StatusOr<Value> Sort(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound,
                   Bound::Bind("sort", args, {"reverse", "case_sensitive", "attribute"}));
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(context, self));
  // "a,b" sorts by a, then by b.
  std::vector<AttributePath> paths;
  if (bound.Has(2) && bound[2]->IsStr()) {
    CallArgs comma;
    comma.positional = {context.heap().Str(",")};
    ASSIGN_OR_RETURN(const Value names, FindStrMethod("split")(context, *bound[2], comma));
    for (const Value& name : names.seq().items) {
      ASSIGN_OR_RETURN(AttributePath path, AttributePath::Parse(context, name));
      paths.push_back(std::move(path));
    }
  } else {
    ASSIGN_OR_RETURN(AttributePath path,
                     AttributePath::Parse(context, bound.Has(2) ? *bound[2] : Value::None()));
    paths.push_back(std::move(path));
  }
  std::vector<Value> keys;
  keys.reserve(items.size());
  for (const Value& item : items) {
    RETURN_IF_ERROR(context.Step());
    std::vector<Value> parts;
    for (const AttributePath& path : paths) {
      ASSIGN_OR_RETURN(Value part, KeyOf(context, path, item, bound.Bool(1, false)));
      parts.push_back(std::move(part));
    }
    keys.push_back(context.heap().List(std::move(parts)));
  }
  ASSIGN_OR_RETURN(const std::vector<size_t> order,
                   SortedOrder(context, keys, bound.Bool(0, false)));
  std::vector<Value> sorted;
  sorted.reserve(items.size());
  for (const size_t i : order) sorted.push_back(items[i]);
  return context.heap().List(std::move(sorted));
}

absl::StatusOr<Value> DictSort(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound,
                   Bound::Bind("dictsort", args, {"case_sensitive", "by", "reverse"}));
  bool by_value = false;
  if (bound.Has(1)) {
    const bool known =
        bound[1]->IsStr() && (bound[1]->view() == "key" || bound[1]->view() == "value");
    if (!known) return TemplateError("You can only sort by either \"key\" or \"value\"");
    by_value = bound[1]->view() == "value";
  }
  if (self.IsUndefined()) return UndefinedError(self);
  if (!self.IsDict()) return TemplateError("dictsort wants a mapping");
  std::vector<Value> keys;
  for (const auto& [key, value] : self.dict().entries) {
    Value by = by_value ? value : key;
    if (!bound.Bool(0, false)) {
      ASSIGN_OR_RETURN(by, IgnoreCase(context, by));
    }
    keys.push_back(std::move(by));
  }
  ASSIGN_OR_RETURN(const std::vector<size_t> order,
                   SortedOrder(context, keys, bound.Bool(2, false)));
  std::vector<Value> sorted;
  for (const size_t i : order) {
    const auto& [key, value] = self.dict().entries[i];
    sorted.push_back(context.heap().Tuple({key, value}));
  }
  return context.heap().List(std::move(sorted));
}

absl::StatusOr<Value> Unique(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("unique", args, {"case_sensitive", "attribute"}));
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(context, self));
  ASSIGN_OR_RETURN(const AttributePath path,
                   AttributePath::Parse(context, bound.Has(1) ? *bound[1] : Value::None()));
  DictObject seen;
  std::vector<Value> kept;
  for (const Value& item : items) {
    RETURN_IF_ERROR(context.Step());
    ASSIGN_OR_RETURN(const Value key, KeyOf(context, path, item, bound.Bool(0, false)));
    RETURN_IF_ERROR(context.Step(key.weight()));
    if (!IsHashable(key)) {
      return context.heap().Iterator(
          std::move(kept), TemplateError(Concat("unhashable type: '", TypeName(key), "'")));
    }
    if (seen.Find(key) != nullptr) continue;
    seen.Set(key, Value::None());
    kept.push_back(item);
  }
  return context.heap().Iterator(std::move(kept));
}

absl::StatusOr<Value> Extreme(Context& context, const Value& self, CallArgs& args, bool max) {
  ASSIGN_OR_RETURN(const Bound bound,
                   Bound::Bind(max ? "max" : "min", args, {"case_sensitive", "attribute"}));
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(context, self));
  if (items.empty()) return context.heap().Undefined("No aggregated item, sequence was empty.");
  ASSIGN_OR_RETURN(const AttributePath path,
                   AttributePath::Parse(context, bound.Has(1) ? *bound[1] : Value::None()));
  size_t best = 0;
  Value best_key;
  for (size_t i = 0; i < items.size(); ++i) {
    RETURN_IF_ERROR(context.Step());
    ASSIGN_OR_RETURN(Value key, KeyOf(context, path, items[i], bound.Bool(0, false)));
    if (i > 0) {
      ASSIGN_OR_RETURN(const bool better,
                       max ? Less(context, best_key, key) : Less(context, key, best_key));
      if (!better) continue;
    }
    best = i;
    best_key = std::move(key);
  }
  return items[best];
}

absl::StatusOr<Value> Min(Context& context, const Value& self, CallArgs& args) {
  return Extreme(context, self, args, false);
}
absl::StatusOr<Value> Max(Context& context, const Value& self, CallArgs& args) {
  return Extreme(context, self, args, true);
}

absl::StatusOr<Value> Sum(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("sum", args, {"attribute", "start"}));
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(context, self));
  ASSIGN_OR_RETURN(const AttributePath path,
                   AttributePath::Parse(context, bound.Has(0) ? *bound[0] : Value::None()));
  Value total = bound.Has(1) ? *bound[1] : Value::Int(0);
  if (total.IsStr()) return TemplateError("sum() can't sum strings");
  for (const Value& item : items) {
    RETURN_IF_ERROR(context.Step());
    ASSIGN_OR_RETURN(const Value part, path.Get(context, item));
    ASSIGN_OR_RETURN(total, Binary(context, BinaryOp::kAdd, total, part));
  }
  return total;
}

absl::StatusOr<Value> GroupBy(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound,
                   Bound::Bind("groupby", args, {"attribute", "default", "case_sensitive"}, 1));
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(context, self));
  ASSIGN_OR_RETURN(const AttributePath path, AttributePath::Parse(context, *bound[0]));
  const Value* default_value = bound.Has(1) && !bound[1]->IsNone() ? bound[1] : nullptr;
  std::vector<Value> keys;
  for (const Value& item : items) {
    RETURN_IF_ERROR(context.Step());
    ASSIGN_OR_RETURN(Value key, KeyOf(context, path, item, bound.Bool(2, false), default_value));
    keys.push_back(std::move(key));
  }
  ASSIGN_OR_RETURN(const std::vector<size_t> order, SortedOrder(context, keys, false));
  std::vector<Value> groups;
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin;
    std::vector<Value> members;
    while (end < order.size() && Equals(keys[order[begin]], keys[order[end]])) {
      members.push_back(items[order[end++]]);
    }
    ASSIGN_OR_RETURN(Value name, path.Get(context, members[0], default_value));
    groups.push_back(context.heap().Seq(
        SeqType::kGroup, {std::move(name), context.heap().List(std::move(members))}));
    begin = end;
  }
  return context.heap().List(std::move(groups));
}

absl::StatusOr<Value> Batch(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("batch", args, {"linecount", "fill_with"}, 1));
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(context, self));
  ASSIGN_OR_RETURN(const int64_t count, bound.Int(0, 0));
  std::vector<Value> rows;
  std::vector<Value> row;
  for (const Value& item : items) {
    if (static_cast<int64_t>(row.size()) == count) {
      rows.push_back(context.heap().List(std::exchange(row, {})));
    }
    row.push_back(item);
  }
  if (!row.empty()) {
    if (bound.Has(1) && !bound[1]->IsNone() && static_cast<int64_t>(row.size()) < count) {
      RETURN_IF_ERROR(context.Step(count));
      row.resize(static_cast<size_t>(count), *bound[1]);
    }
    rows.push_back(context.heap().List(std::move(row)));
  }
  return context.heap().Iterator(std::move(rows));
}

absl::StatusOr<Value> SliceFilter(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("slice", args, {"slices", "fill_with"}, 1));
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(context, self));
  ASSIGN_OR_RETURN(const int64_t slices, bound.Int(0, 0));
  if (slices == 0) {
    return context.heap().Iterator({}, TemplateError("integer division or modulo by zero"));
  }
  if (slices < 0) return context.heap().Iterator({});
  RETURN_IF_ERROR(context.Step(slices));
  const size_t count = static_cast<size_t>(slices);
  const size_t each = items.size() / count;
  const size_t longer = items.size() % count;
  std::vector<Value> parts;
  size_t begin = 0;
  for (size_t i = 0; i < count; ++i) {
    const size_t end = begin + each + (i < longer ? 1 : 0);
    std::vector<Value> part(items.begin() + static_cast<ptrdiff_t>(begin),
                            items.begin() + static_cast<ptrdiff_t>(end));
    if (bound.Has(1) && !bound[1]->IsNone() && i >= longer) part.push_back(*bound[1]);
    parts.push_back(context.heap().List(std::move(part)));
    RETURN_IF_ERROR(context.heap().status());
    begin = end;
  }
  return context.heap().Iterator(std::move(parts));
}

absl::StatusOr<Value> Items(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("items", args, {}).status());
  if (self.IsUndefined()) return context.heap().Iterator({});
  if (!self.IsDict()) {
    return context.heap().Iterator({}, TemplateError("Can only get item pairs from a mapping."));
  }
  std::vector<Value> pairs;
  RETURN_IF_ERROR(context.Step(static_cast<int64_t>(self.dict().entries.size())));
  for (const auto& [key, value] : self.dict().entries) {
    pairs.push_back(context.heap().Tuple({key, value}));
  }
  return context.heap().Iterator(std::move(pairs));
}

constexpr NativeEntry kFilters[] = {
    {"batch", Batch},
    {"count", LengthFilter},
    {"dictsort", DictSort},
    {"first", First},
    {"groupby", GroupBy},
    {"items", Items},
    {"join", Join},
    {"last", Last},
    {"length", LengthFilter},
    {"list", List},
    {"max", Max},
    {"min", Min},
    {"reverse", Reverse},
    {"slice", SliceFilter},
    {"sort", Sort},
    {"sum", Sum},
    {"unique", Unique},
};

}  // namespace

absl::StatusOr<AttributePath> AttributePath::Parse(Context& context, const Value& attribute) {
  AttributePath path;
  if (attribute.IsNone()) return path;
  if (!attribute.IsStr()) {
    path.parts_.push_back(attribute);
    return path;
  }
  CallArgs dot;
  dot.positional = {context.heap().Str(".")};
  ASSIGN_OR_RETURN(const Value names, FindStrMethod("split")(context, attribute, dot));
  for (const Value& name : names.seq().items) {
    const std::string_view part = name.view();
    const bool digits = !part.empty() && part.size() < 19 &&
                        part.find_first_not_of("0123456789") == std::string_view::npos;
    path.parts_.push_back(digits ? Value::Int(std::stoll(std::string(part))) : name);
  }
  return path;
}

absl::StatusOr<Value> AttributePath::Get(Context& context,
                                         const Value& item,
                                         const Value* default_value) const {
  Value value = item;
  for (const Value& part : parts_) {
    RETURN_IF_ERROR(context.Step());
    ASSIGN_OR_RETURN(value, GetItem(context, value, part));
    if (value.IsUndefined() && default_value != nullptr) value = *default_value;
  }
  return value;
}

absl::StatusOr<Value> IgnoreCase(Context& context, const Value& value) {
  if (!value.IsStr()) return value;
  CallArgs none;
  return StrLower(context, value, none);
}

NativeFn FindSequenceFilter(std::string_view name) { return FindNative(kFilters, name); }

NativeFn FindFilter(std::string_view name) {
  for (const auto find : {FindTextFilter, FindSequenceFilter, FindSelectFilter, FindValueFilter}) {
    if (const NativeFn filter = find(name)) return filter;
  }
  return nullptr;
}

}  // namespace paceline::model
