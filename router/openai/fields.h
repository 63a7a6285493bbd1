// Typed access to the members of a JSON request: every reader checks type and width, and names the
// field at fault. Ranges are the core's business. Stateless; any thread.
#ifndef PACELINE_ROUTER_OPENAI_FIELDS_H_
#define PACELINE_ROUTER_OPENAI_FIELDS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/types/span.h"
#include "nlohmann/json.hpp"
#include "router/core/api_error.h"
#include "router/openai/json.h"

namespace paceline::router {

using FieldError = std::optional<ApiError>;

// The texts and whole numbers in a row.
template <class... Parts>
std::string Concat(const Parts&... parts) {
  std::string out;
  const auto append = [&out](const auto& part) {
    if constexpr (std::is_integral_v<std::decay_t<decltype(part)>>) {
      out.append(std::to_string(part));
    } else {
      out.append(part);
    }
  };
  (append(parts), ...);
  return out;
}

// 400s. `path` is made of our field names and of numbers, for example messages[2].content.
ApiError WrongType(std::string_view path, std::string_view expected);
ApiError OutOfRange(std::string_view path);
ApiError NotSupported(std::string_view path);
ApiError MissingField(std::string_view path);
// `name` is what the user sent; `path` names the object it was found in, empty for the body.
ApiError UnknownField(std::string_view path, std::string_view name);

FieldError ReadBool(const nlohmann::json& json, std::string_view path, bool* out);
FieldError ReadInt64(const nlohmann::json& json, std::string_view path, int64_t* out);
FieldError ReadInt32(const nlohmann::json& json, std::string_view path, int32_t* out);
FieldError ReadDouble(const nlohmann::json& json, std::string_view path, double* out);
FieldError ReadString(const nlohmann::json& json, std::string_view path, std::string* out);
// A hint that does not change the answer: 1..256 bytes without control characters, or an error.
FieldError CheckLabel(const nlohmann::json& json, std::string_view path);
// An array of whole numbers, handed to `add` one by one.
template <class Add>
FieldError ReadIds(const nlohmann::json& json, std::string_view path, const Add& add) {
  if (!json.is_array()) return WrongType(path, "an array of integers");
  for (size_t i = 0; i < json.size(); ++i) {
    int64_t id;
    if (auto error = ReadInt64(json[i], path, &id)) {
      error->param = Concat(path, "[", i, "]");
      return error;
    }
    add(id);
  }
  return std::nullopt;
}
// The text of a value that is passed on as JSON.
std::string JsonText(const nlohmann::json& json);

// One member that an object may have. Null means absent, so `set` never sees it.
template <class Target>
struct Field {
  std::string_view name;
  FieldError (*set)(const nlohmann::json& value, std::string_view path, Target& target);
};

template <class Target>
const Field<Target>* FindField(absl::Span<const Field<Target>> fields, std::string_view name) {
  for (const Field<Target>& field : fields) {
    if (field.name == name) return &field;
  }
  return nullptr;
}

// Reads every member of `object` by `own` or else `common` fields. REQUIRES: object.is_object().
template <class Target, class Base>
FieldError ReadObject(const nlohmann::json& object,
                      std::string_view path,
                      absl::Span<const Field<Target>> own,
                      absl::Span<const Field<Base>> common,
                      bool allow_unknown_fields,
                      Target& target) {
  for (const auto& [name, value] : object.get_ref<const nlohmann::json::object_t&>()) {
    const Field<Target>* own_field = FindField(own, name);
    const Field<Base>* field = own_field == nullptr ? FindField(common, name) : nullptr;
    if (own_field == nullptr && field == nullptr) {
      if (allow_unknown_fields) continue;
      return UnknownField(path, name);
    }
    if (value.is_null()) continue;
    const std::string full = path.empty() ? name : Concat(path, ".", name);
    auto error = own_field != nullptr ? own_field->set(value, full, target)
                                      : field->set(value, full, target);
    if (error) return error;
  }
  return std::nullopt;
}

template <class Target>
FieldError ReadObject(const nlohmann::json& object,
                      std::string_view path,
                      absl::Span<const Field<Target>> fields,
                      bool allow_unknown_fields,
                      Target& target) {
  return ReadObject<Target, Target>(object, path, fields, {}, allow_unknown_fields, target);
}

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_OPENAI_FIELDS_H_
