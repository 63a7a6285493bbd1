// Global functions: range, dict, namespace, joiner, raise_exception, strftime_now.
#include <ctime>
#include <memory>

#include "model/chat_template/callable.h"
#include "model/chat_template/chat_template.h"
#include "model/chat_template/concat.h"
#include "model/chat_template/operators.h"
#include "model/chat_template/value_text.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

constexpr int64_t kMaxRange = 100'000;  // jinja2's sandbox has the same
constexpr int64_t kStrftimeSteps = 64;  // what one conversion of strftime costs
constexpr char kRaisedPayload[] = "paceline.chat_template/raised";

absl::StatusOr<Value> Range(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("range", args, {"start", "stop", "step"}, 1));
  if (!args.named.empty()) return TemplateError("range() takes no keyword arguments");
  int64_t start = 0;
  int64_t stop = 0;
  if (bound.Has(1)) {
    ASSIGN_OR_RETURN(start, bound.Int(0, 0));
    ASSIGN_OR_RETURN(stop, bound.Int(1, 0));
  } else {
    ASSIGN_OR_RETURN(stop, bound.Int(0, 0));
  }
  ASSIGN_OR_RETURN(const int64_t step, bound.Int(2, 1));
  if (step == 0) return TemplateError("range() arg 3 must not be zero");
  const __int128 distance =
      step > 0 ? static_cast<__int128>(stop) - start : static_cast<__int128>(start) - stop;
  const __int128 by = step > 0 ? static_cast<__int128>(step) : -static_cast<__int128>(step);
  const __int128 count = distance <= 0 ? 0 : (distance - 1) / by + 1;
  if (count > kMaxRange) {
    return TemplateError(
        Concat("Range too big. The sandbox blocks ranges larger than ", kMaxRange, "."));
  }
  RETURN_IF_ERROR(context.Step(static_cast<int64_t>(count)));
  return context.heap().Range(start, stop, step, static_cast<size_t>(count));
}

// The entries of dict(mapping, **named): a mapping, or pairs.
absl::StatusOr<std::shared_ptr<DictObject>> MakeDict(Context& context, CallArgs& args) {
  auto dict = std::make_shared<DictObject>();
  if (args.positional.size() > 1) return TemplateError("dict expected at most 1 argument");
  if (args.positional.size() == 1) {
    const Value& from = args.positional[0];
    if (from.IsDict()) {
      RETURN_IF_ERROR(context.Step(static_cast<int64_t>(from.dict().entries.size())));
      for (const auto& [key, value] : from.dict().entries) dict->Set(key, value);
    } else {
      ASSIGN_OR_RETURN(const std::vector<Value> pairs, Iterate(context, from));
      for (const Value& pair : pairs) {
        ASSIGN_OR_RETURN(const std::vector<Value> entry, Iterate(context, pair));
        if (entry.size() != 2) {
          return TemplateError("a dict is made from pairs of a key and a value");
        }
        if (!IsHashable(entry[0])) {
          return TemplateError(Concat("unhashable type: '", TypeName(entry[0]), "'"));
        }
        dict->Set(entry[0], entry[1]);
      }
    }
  }
  for (auto& [name, value] : args.named) dict->Set(context.heap().Str(name), value);
  return dict;
}

absl::StatusOr<Value> Dict(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(auto dict, MakeDict(context, args));
  return context.heap().Dict(std::move(dict));
}

absl::StatusOr<Value> Namespace(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const auto dict, MakeDict(context, args));
  auto ns = std::make_shared<NamespaceObject>();
  for (const auto& [key, value] : dict->entries) {
    if (!key.IsStr()) return TemplateError("the attributes of a namespace are named by strings");
    if (!key.view().empty() && key.view()[0] == '_') {
      return TemplateError("a namespace cannot hold attributes that start with an underscore");
    }
    ns->attributes.emplace_back(key.view(), value);
  }
  context.heap().Adopt(ns.get(), sizeof(NamespaceObject) + ns->attributes.size() * 64);
  context.heap().Keep(ns);
  return Value(Kind::kNamespace, std::move(ns));
}

// A joiner gives "" the first time it is called and its separator after that. Its state is the
// position of the iterator that holds the separator.
absl::StatusOr<Value> Join(Context& context, const Value& self, CallArgs& args) {
  RETURN_IF_ERROR(Bound::Bind("joiner", args, {}).status());
  auto& state = static_cast<SeqObject&>(*self.object());
  if (state.position++ == 0) return context.heap().Str("");
  return state.items[0];
}

absl::StatusOr<Value> Joiner(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("joiner", args, {"sep"}));
  Value separator = bound.Has(0) ? *bound[0] : context.heap().Str(", ");
  Value state = context.heap().Iterator({std::move(separator)});
  RETURN_IF_ERROR(context.heap().status());
  return MakeNative(context, "joiner", Join, std::move(state));
}

absl::StatusOr<Value> RaiseException(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("raise_exception", args, {"message"}, 1));
  ASSIGN_OR_RETURN(const Value message, ToStr(context, *bound[0]));
  absl::Status status = absl::InvalidArgumentError(std::string(message.view()));
  // An empty message would lose the payload's owner, so say something.
  if (message.view().empty()) status = absl::InvalidArgumentError("the chat template refused");
  status.SetPayload(kRaisedPayload, absl::Cord());
  return status;
}

absl::StatusOr<Value> StrftimeNow(Context& context, const Value& self, CallArgs& args) {
  ASSIGN_OR_RETURN(const Bound bound, Bound::Bind("strftime_now", args, {"format"}, 1));
  if (!bound[0]->IsStr()) return TemplateError("strftime() argument 1 must be str");
  const Text& format = bound[0]->text();
  RETURN_IF_ERROR(context.ChargeText(format.size()));
  const std::time_t now = context.now_unix_seconds();
  std::tm tm{};
  if (gmtime_r(&now, &tm) == nullptr) return TemplateError("the time is out of range");
  TextBuilder out;
  for (size_t pos = 0; pos < format.size();) {
    if (format.bytes[pos] != '%' || pos + 1 == format.size()) {
      out.Append(format, pos, pos + 1);
      ++pos;
      continue;
    }
    RETURN_IF_ERROR(context.Step(kStrftimeSteps));
    // %d and the like, and glibc's %-d without padding; no widths, which could ask for any size.
    const bool flag = format.bytes[pos + 1] == '-' && pos + 2 < format.size();
    const char code = format.bytes[pos + (flag ? 2 : 1)];
    if (code == 'f') {
      out.Append("000000");
    } else if (std::string_view("aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyYzZ%").find(code) ==
               std::string_view::npos) {
      out.Append(format, pos, pos + (flag ? 3 : 2));
    } else {
      char piece[256];
      const char spec[4] = {'%', flag ? '-' : code, flag ? code : '\0', '\0'};
      const size_t bytes = std::strftime(piece, sizeof(piece), spec, &tm);
      // The time carries no zone for Python either: %z and %Z are empty.
      if (code != 'z' && code != 'Z') {
        out.Append(std::string_view(piece, bytes), !format.untrusted.empty());
      }
    }
    pos += flag ? 3 : 2;
  }
  return context.heap().Str(std::move(out));
}

constexpr NativeEntry kGlobals[] = {
    {"dict", Dict},
    {"joiner", Joiner},
    {"namespace", Namespace},
    {"raise_exception", RaiseException},
    {"range", Range},
    {"strftime_now", StrftimeNow},
};

}  // namespace

NativeFn FindGlobal(std::string_view name) { return FindNative(kGlobals, name); }

bool IsTemplateRaised(const absl::Status& status) {
  return status.GetPayload(kRaisedPayload).has_value();
}

}  // namespace paceline::model
