// The fields that completions and chat completions share: sampling, stopping, streaming, identity.
// To add a sampling parameter, add its row to the table. Stateless; any thread.
#ifndef PACELINE_ROUTER_OPENAI_SAMPLING_FIELDS_H_
#define PACELINE_ROUTER_OPENAI_SAMPLING_FIELDS_H_

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/types/span.h"
#include "router/openai/fields.h"
#include "router/openai/requests.h"

namespace paceline::router {

// A body while it is read.
struct RequestParts {
  bool allow_unknown_fields = false;
  std::string model;
  v1::SamplingParams sampling;
  v1::RequestOptions options;
  bool stream = false;
  bool has_stream_options = false;  // with anything switched on
  ResponseShape shape;
};

absl::Span<const Field<RequestParts>> SharedFields();

// What depends on two fields at once. Call when all fields are read.
FieldError FinishSharedFields(RequestParts& parts);

// A JSON body that must be an object.
std::variant<nlohmann::json, ApiError> ParseObject(std::string_view body);

// ---- Setters for rows of field tables ----------------------------------------------------------
// For fields that stand for what we do not do: only `kDefault` is accepted.
template <bool kDefault, class Target>
FieldError OnlyBool(const nlohmann::json& value, std::string_view path, Target&) {
  bool flag;
  if (auto error = ReadBool(value, path, &flag)) return error;
  if (flag != kDefault) return NotSupported(path);
  return std::nullopt;
}
template <class Target>
FieldError AnyBool(const nlohmann::json& value, std::string_view path, Target&) {
  bool flag;
  return ReadBool(value, path, &flag);
}
template <class Target>
FieldError OnlyNull(const nlohmann::json&, std::string_view path, Target&) {
  return NotSupported(path);
}
template <class Target>
FieldError OnlyEmptyArray(const nlohmann::json& value, std::string_view path, Target&) {
  if (!value.is_array()) return WrongType(path, "an array");
  if (!value.empty()) return NotSupported(path);
  return std::nullopt;
}
template <class Target>
FieldError OnlyEmptyObject(const nlohmann::json& value, std::string_view path, Target&) {
  if (!value.is_object()) return WrongType(path, "an object");
  if (!value.empty()) return NotSupported(path);
  return std::nullopt;
}
template <class Target>
FieldError Label(const nlohmann::json& value, std::string_view path, Target&) {
  return CheckLabel(value, path);
}

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_OPENAI_SAMPLING_FIELDS_H_
