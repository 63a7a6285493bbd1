// One value laid out by a format spec: what "%5.2f" and "{:>8}" have in common. Works on one
// rendering's values, on its thread.
#ifndef PACELINE_MODEL_CHAT_TEMPLATE_FORMAT_VALUE_H_
#define PACELINE_MODEL_CHAT_TEMPLATE_FORMAT_VALUE_H_

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/chat_template/native.h"
#include "model/chat_template/text.h"
#include "model/chat_template/value.h"

namespace paceline::model {

inline constexpr int kMaxPrecision = 1000;

struct FormatSpec {
  Text fill;        // one code point; empty: a space
  char align = 0;   // < > = ^, 0: by type
  char sign = '-';  // - + or a space
  bool alternate = false;
  size_t width = 0;
  char grouping = 0;   // , or _
  int precision = -1;  // -1: none
  char type = 0;
};

// format(value, spec). InvalidArgument for a spec that does not fit the value.
absl::StatusOr<Value> FormatValue(Context& context, const Value& value, const FormatSpec& spec);

// The sign (with a prefix like 0x) and the digits of a number. REQUIRES: value.IsNumber().
absl::Status FormatNumber(const Value& value,
                          const FormatSpec& spec,
                          std::string* sign,
                          std::string* digits);
// `text` filled up to the width.
absl::StatusOr<Value> PadTo(Context& context,
                            const Value& text,
                            const FormatSpec& spec,
                            char default_align);
// Whether the type is one of e E f F g G %.
bool IsFloatType(char type);

}  // namespace paceline::model

#endif  // PACELINE_MODEL_CHAT_TEMPLATE_FORMAT_VALUE_H_
