// Operators, attribute access and iteration over values, with Python's meaning. Each works on the
// values of one rendering, on its thread; InvalidArgument where Python raises.
#ifndef PACELINE_MODEL_CHAT_TEMPLATE_OPERATORS_H_
#define PACELINE_MODEL_CHAT_TEMPLATE_OPERATORS_H_

#include <cstddef>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/chat_template/ast.h"
#include "model/chat_template/native.h"
#include "model/chat_template/value.h"

namespace paceline::model {

absl::StatusOr<Value> Binary(Context& context, BinaryOp op, const Value& a, const Value& b);
absl::StatusOr<Value> Negate(const Value& value);
absl::StatusOr<bool> Compare(Context& context, CompareOp op, const Value& a, const Value& b);
// a < b, the order that sorting uses.
absl::StatusOr<bool> Less(Context& context, const Value& a, const Value& b);
absl::StatusOr<bool> Contains(Context& context, const Value& container, const Value& item);
// The order that sorts `keys`, stable also when reversed.
absl::StatusOr<std::vector<size_t>> SortedOrder(Context& context,
                                                const std::vector<Value>& keys,
                                                bool reverse);

// object.name and object[key]; an undefined value where there is nothing.
absl::StatusOr<Value> GetAttr(Context& context, const Value& object, std::string_view name);
absl::StatusOr<Value> GetItem(Context& context, const Value& object, const Value& key);
// object[begin:end:step]; each bound may be None.
absl::StatusOr<Value> Slice(
    Context& context, const Value& object, const Value& begin, const Value& end, const Value& step);

absl::StatusOr<int64_t> Length(const Value& value);
// What a loop over the value yields. An iterator is used up by it.
absl::StatusOr<std::vector<Value>> Iterate(Context& context, const Value& value);
// The code point of `text` that begins at byte `pos`, as a string.
Value CharAt(Context& context, const Text& text, size_t pos, size_t* bytes);
// Bytes [begin, end) of `text` as a string.
Value Substring(Context& context, const Text& text, size_t begin, size_t end);

// The error that using an undefined value gives.
absl::Status UndefinedError(const Value& value);
// "str % args".
absl::StatusOr<Value> FormatPercent(Context& context, const Text& format, const Value& args);

}  // namespace paceline::model

#endif  // PACELINE_MODEL_CHAT_TEMPLATE_OPERATORS_H_
