// The str methods that filters share. Each takes a string as `self`, has Python's meaning, and
// keeps track of which bytes came from the request. Works on one rendering's values, on its thread.
#ifndef PACELINE_MODEL_CHAT_TEMPLATE_STR_METHODS_H_
#define PACELINE_MODEL_CHAT_TEMPLATE_STR_METHODS_H_

#include <cstddef>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/chat_template/native.h"
#include "model/chat_template/text.h"
#include "model/chat_template/value.h"

namespace paceline::model {

absl::StatusOr<Value> StrUpper(Context& context, const Value& self, CallArgs& args);
absl::StatusOr<Value> StrLower(Context& context, const Value& self, CallArgs& args);
absl::StatusOr<Value> StrCapitalize(Context& context, const Value& self, CallArgs& args);
absl::StatusOr<Value> StrStrip(Context& context, const Value& self, CallArgs& args);
absl::StatusOr<Value> StrReplace(Context& context, const Value& self, CallArgs& args);
absl::StatusOr<Value> StrCenter(Context& context, const Value& self, CallArgs& args);
absl::StatusOr<Value> StrFormat(Context& context, const Value& self, CallArgs& args);
absl::StatusOr<Value> StrIsLower(Context& context, const Value& self, CallArgs& args);
absl::StatusOr<Value> StrIsUpper(Context& context, const Value& self, CallArgs& args);

// The lines of `text` as byte ranges, without their line ends.
std::vector<TextSpan> SplitLines(const Text& text, bool keep_ends);
// `text` between `left` and `right` copies of the fill character.
absl::StatusOr<Value> Pad(
    Context& context, const Value& self, const Text& fill, size_t left, size_t right);

// More str methods, found by FindStrMethod.
NativeFn FindStrSearchMethod(std::string_view name);  // str_search.cc

}  // namespace paceline::model

#endif  // PACELINE_MODEL_CHAT_TEMPLATE_STR_METHODS_H_
