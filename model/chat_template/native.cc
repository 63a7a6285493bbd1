#include "model/chat_template/native.h"

#include <cstdlib>

#include "model/chat_template/concat.h"

namespace paceline::model {
absl::Status TemplateError(std::string_view message) {
  return absl::InvalidArgumentError(std::string(message));
}

absl::Status Context::Step(int64_t steps) {
  steps_ += steps;
  if (steps_ > limits_.max_steps) {
    return absl::ResourceExhaustedError("the chat template takes too many steps");
  }
  const char* here = static_cast<const char*>(__builtin_frame_address(0));
  if (depth > limits_.max_depth ||
      static_cast<size_t>(std::abs(stack_base_ - here)) > limits_.max_stack_bytes) {
    return absl::ResourceExhaustedError("the chat template recurses too deeply");
  }
  return heap_.status();
}

absl::Status Context::ChargeText(size_t bytes) {
  if (bytes > limits_.max_output_bytes) {
    return absl::ResourceExhaustedError("the chat template makes too long a text");
  }
  return Step(static_cast<int64_t>(bytes / kBytesPerStep) + 1);
}

absl::StatusOr<Bound> Bound::Bind(std::string_view function,
                                  CallArgs& args,
                                  std::initializer_list<std::string_view> parameters,
                                  size_t required) {
  Bound bound;
  bound.values_.resize(parameters.size());
  bound.present_.resize(parameters.size());
  if (args.positional.size() > parameters.size()) {
    return TemplateError(Concat(function,
                                "() takes at most ",
                                parameters.size(),
                                " arguments (",
                                args.positional.size(),
                                " given)"));
  }
  for (size_t i = 0; i < args.positional.size(); ++i) {
    bound.values_[i] = args.positional[i];
    bound.present_[i] = true;
  }
  for (auto& [name, value] : args.named) {
    size_t i = 0;
    while (i < parameters.size() && parameters.begin()[i] != name) ++i;
    if (i == parameters.size() || bound.present_[i]) {
      return TemplateError(Concat(function,
                                  i == parameters.size() ? "() got an unexpected keyword argument '"
                                                         : "() got multiple values for argument '",
                                  name.substr(0, 80),
                                  "'"));
    }
    bound.values_[i] = value;
    bound.present_[i] = true;
  }
  for (size_t i = 0; i < required; ++i) {
    if (!bound.present_[i]) {
      return TemplateError(
          Concat(function, "() missing required argument '", parameters.begin()[i], "'"));
    }
  }
  return bound;
}

absl::StatusOr<int64_t> Bound::Int(size_t parameter, int64_t default_value) const {
  if (!present_[parameter]) return default_value;
  const Value& value = values_[parameter];
  if (!value.IsInteger()) {
    return TemplateError(
        Concat("'", TypeName(value), "' object cannot be interpreted as an integer"));
  }
  return value.AsInt();
}

bool Bound::Bool(size_t parameter, bool default_value) const {
  return present_[parameter] ? Truthy(values_[parameter]) : default_value;
}

}  // namespace paceline::model
