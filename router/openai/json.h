// A strict JSON reader for request bodies: one document, no duplicate keys, valid UTF-8, finite
// numbers, bounded depth and size. Stateless; any thread.
#ifndef PACELINE_ROUTER_OPENAI_JSON_H_
#define PACELINE_ROUTER_OPENAI_JSON_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <variant>

#include "nlohmann/json.hpp"
#include "router/core/api_error.h"

namespace paceline::router {

struct JsonLimits {
  size_t max_bytes = size_t{4} << 20;
  int max_depth = 64;            // containers within containers
  size_t max_numbers = 1 << 20;  // numbers, booleans and nulls of one document
  size_t max_values = 1 << 17;   // strings, keys and containers of one document
};

// The document, or a 400 (413 when it is too long). Numbers without fraction and exponent are
// integers when they fit 64 bits; one that does not fit, like 1e999, is an error, and so is a
// number that is not zero but too small for a double.
std::variant<nlohmann::json, ApiError> ParseJson(std::string_view text,
                                                 const JsonLimits& limits = {});

// At most 64 printable ASCII characters of a name that a user sent, safe to show; others become
// '?'.
std::string SanitizedName(std::string_view name);

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_OPENAI_JSON_H_
