// Values as text: Python's str, repr and json.dumps. Work on one rendering's values, on its thread.
#ifndef PACELINE_MODEL_CHAT_TEMPLATE_VALUE_TEXT_H_
#define PACELINE_MODEL_CHAT_TEMPLATE_VALUE_TEXT_H_

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/chat_template/native.h"
#include "model/chat_template/text.h"
#include "model/chat_template/value.h"

namespace paceline::model {

// repr(double): the shortest digits that read back the same.
std::string FloatRepr(double value);

// str(value), what {{ value }} prints.
absl::Status AppendStr(Context& context, const Value& value, TextBuilder* out);
// repr(value).
absl::Status AppendRepr(Context& context, const Value& value, TextBuilder* out);
// str(value) as a string value; strings pass through without a copy.
absl::StatusOr<Value> ToStr(Context& context, const Value& value);

struct JsonOptions {
  bool ensure_ascii = false;
  std::optional<std::string> indent;  // absent: all on one line
  Text item_separator;
  Text key_separator;
  bool sort_keys = false;
};
// json.dumps(value). InvalidArgument for values that JSON has no form for.
absl::Status AppendJson(Context& context,
                        const Value& value,
                        const JsonOptions& options,
                        TextBuilder* out);

}  // namespace paceline::model

#endif  // PACELINE_MODEL_CHAT_TEMPLATE_VALUE_TEXT_H_
