// What the filter files share. Works on one rendering's values, on its thread.
#ifndef PACELINE_MODEL_CHAT_TEMPLATE_FILTERS_H_
#define PACELINE_MODEL_CHAT_TEMPLATE_FILTERS_H_

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/chat_template/native.h"
#include "model/chat_template/value.h"

namespace paceline::model {

// The path "a.b.0" that filters take as `attribute`: looks each part up in turn.
class AttributePath {
 public:
  // `attribute` is a string, an integer or None.
  static absl::StatusOr<AttributePath> Parse(Context& context, const Value& attribute);
  // With `default_value`, an undefined step becomes it.
  absl::StatusOr<Value> Get(Context& context,
                            const Value& item,
                            const Value* default_value = nullptr) const;

 private:
  std::vector<Value> parts_;
};

// Lower case for strings, everything else unchanged: the key of sorting and of unique.
absl::StatusOr<Value> IgnoreCase(Context& context, const Value& value);

NativeFn FindTextFilter(std::string_view name);      // filters_text.cc
NativeFn FindSequenceFilter(std::string_view name);  // filters_sequence.cc
NativeFn FindSelectFilter(std::string_view name);    // filters_select.cc
NativeFn FindValueFilter(std::string_view name);     // filters_value.cc

}  // namespace paceline::model

#endif  // PACELINE_MODEL_CHAT_TEMPLATE_FILTERS_H_
