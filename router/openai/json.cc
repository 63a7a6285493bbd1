#include "router/openai/json.h"

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace paceline::router {
namespace {

using nlohmann::json;

ApiError InvalidJson(std::string message, std::string code = "invalid_json") {
  return InvalidParam("", std::move(message), std::move(code));
}

// True for texts like 0.000e-5: the number really is zero.
bool IsZeroLiteral(std::string_view literal) {
  for (const char c : literal) {
    if (c == 'e' || c == 'E') break;
    if (c >= '1' && c <= '9') return false;
  }
  return true;
}

bool IsIntegerLiteral(std::string_view literal) {
  return literal.find_first_of(".eE") == std::string_view::npos;
}

// Builds the document and stops at the first thing that ParseJson does not allow.
class StrictBuilder final : public nlohmann::json_sax<json> {
 public:
  explicit StrictBuilder(const JsonLimits& limits) : limits_(limits) {}

  bool null() override { return AddNumber(json(nullptr)); }
  bool boolean(bool value) override { return AddNumber(json(value)); }
  bool number_integer(int64_t value) override { return AddNumber(json(value)); }
  bool number_unsigned(uint64_t value) override { return AddNumber(json(value)); }
  bool number_float(double value, const std::string& literal) override {
    if (IsIntegerLiteral(literal))
      return Fail(InvalidJson("A whole number needs more than 64 bits"));
    if (value == 0.0 && !IsZeroLiteral(literal)) return Fail(InvalidJson("A number is too small"));
    return AddNumber(json(value));
  }
  bool string(std::string& value) override { return CountValue() && Add(json(std::move(value))); }
  bool binary(json::binary_t&) override { return Fail(InvalidJson("Not valid JSON")); }
  bool start_object(size_t) override { return Open(json::object()); }
  bool start_array(size_t) override { return Open(json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }

  bool key(std::string& name) override {
    if (!CountValue()) return false;
    const auto [it, inserted] = stack_.back()->get_ref<json::object_t&>().try_emplace(name);
    if (!inserted) {
      ApiError error = InvalidJson("A name occurs twice in one JSON object", "duplicate_key");
      error.param = SanitizedName(name);
      return Fail(std::move(error));
    }
    member_ = &it->second;
    return true;
  }

  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override {
    return Fail(InvalidJson("Not valid JSON"));
  }

  json& document() { return document_; }
  ApiError TakeError() { return error_ ? std::move(*error_) : InvalidJson("Not valid JSON"); }

 private:
  bool Fail(ApiError error) {
    if (!error_) error_ = std::move(error);
    return false;
  }
  bool CountValue() {
    return ++values_ <= limits_.max_values || Fail(InvalidJson("Too many values in the JSON body"));
  }
  bool AddNumber(json value) {
    if (++numbers_ > limits_.max_numbers) {
      return Fail(InvalidJson("Too many values in the JSON body"));
    }
    return Add(std::move(value));
  }
  bool Open(json container) {
    if (static_cast<int>(stack_.size()) >= limits_.max_depth) {
      return Fail(InvalidJson("The JSON body is nested too deeply"));
    }
    if (!CountValue()) return false;
    stack_.push_back(Place(std::move(container)));
    return true;
  }
  bool Close() {
    stack_.pop_back();
    return true;
  }
  bool Add(json value) {
    Place(std::move(value));
    return true;
  }
  // Where the parents' addresses stay valid: only the innermost container grows.
  json* Place(json value) {
    if (stack_.empty()) {
      document_ = std::move(value);
      return &document_;
    }
    if (stack_.back()->is_array()) {
      auto& array = stack_.back()->get_ref<json::array_t&>();
      array.push_back(std::move(value));
      return &array.back();
    }
    *member_ = std::move(value);
    return member_;
  }

  const JsonLimits& limits_;
  json document_;
  std::vector<json*> stack_;
  json* member_ = nullptr;  // the value of the last key
  size_t values_ = 0;
  size_t numbers_ = 0;
  std::optional<ApiError> error_;
};

}  // namespace

std::variant<json, ApiError> ParseJson(std::string_view text, const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    return ApiError{.status = absl::StatusCode::kResourceExhausted,
                    .message = "The request body is too large",
                    .code = "body_too_large",
                    .http_status = 413};
  }
  if (text.empty()) return InvalidJson("The request body is empty");
  // The parser skips a byte order mark and takes NUL for the end.
  if (text.substr(0, 3) == "\xEF\xBB\xBF" || text.find('\0') != std::string_view::npos) {
    return InvalidJson("Not valid JSON");
  }
  StrictBuilder builder(limits);
  if (!json::sax_parse(text.begin(), text.end(), &builder)) return builder.TakeError();
  return std::move(builder.document());
}

std::string SanitizedName(std::string_view name) {
  constexpr size_t kMaxBytes = 64;
  std::string safe(name.substr(0, kMaxBytes));
  for (char& c : safe) {
    if (c < 0x21 || c > 0x7e || c == '"' || c == '\\' || c == '<' || c == '>') c = '?';
  }
  return safe;
}

}  // namespace paceline::router
