#include "router/openai/fields.h"

#include <limits>

namespace paceline::router {

using nlohmann::json;

ApiError WrongType(std::string_view path, std::string_view expected) {
  return InvalidParam(std::string(path), Concat(path, " must be ", expected), "invalid_type");
}

ApiError OutOfRange(std::string_view path) {
  return InvalidParam(std::string(path), Concat(path, " is out of range"), "out_of_range");
}

ApiError NotSupported(std::string_view path) {
  return InvalidParam(std::string(path),
                      Concat(path, " is not supported yet with this value"),
                      "unsupported_parameter");
}

ApiError MissingField(std::string_view path) {
  return InvalidParam(std::string(path), Concat(path, " is required"), "missing_field");
}

ApiError UnknownField(std::string_view path, std::string_view name) {
  const std::string safe = SanitizedName(name);
  return InvalidParam(path.empty() ? safe : Concat(path, ".", safe),
                      "Unknown field, named by param",
                      "unknown_field");
}

FieldError ReadBool(const json& json, std::string_view path, bool* out) {
  if (!json.is_boolean()) return WrongType(path, "true or false");
  *out = json.get<bool>();
  return std::nullopt;
}

FieldError ReadInt64(const json& json, std::string_view path, int64_t* out) {
  if (!json.is_number_integer()) return WrongType(path, "an integer");
  if (json.is_number_unsigned() &&
      json.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return OutOfRange(path);
  }
  *out = json.get<int64_t>();
  return std::nullopt;
}

FieldError ReadInt32(const json& json, std::string_view path, int32_t* out) {
  int64_t wide;
  if (auto error = ReadInt64(json, path, &wide)) return error;
  if (wide < std::numeric_limits<int32_t>::min() || wide > std::numeric_limits<int32_t>::max()) {
    return OutOfRange(path);
  }
  *out = static_cast<int32_t>(wide);
  return std::nullopt;
}

FieldError ReadDouble(const json& json, std::string_view path, double* out) {
  if (!json.is_number()) return WrongType(path, "a number");
  *out = json.get<double>();
  return std::nullopt;
}

FieldError ReadString(const json& json, std::string_view path, std::string* out) {
  if (!json.is_string()) return WrongType(path, "a string");
  *out = json.get_ref<const std::string&>();
  return std::nullopt;
}

FieldError CheckLabel(const json& json, std::string_view path) {
  constexpr size_t kMaxBytes = 256;
  if (!json.is_string()) return WrongType(path, "a string");
  const std::string& label = json.get_ref<const std::string&>();
  if (label.empty() || label.size() > kMaxBytes) {
    return InvalidParam(
        std::string(path), Concat(path, " must have 1 to 256 bytes"), "out_of_range");
  }
  for (const char c : label) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      return InvalidParam(std::string(path), Concat(path, " must not contain control characters"));
    }
  }
  return std::nullopt;
}

std::string JsonText(const json& json) {
  return json.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace paceline::router
