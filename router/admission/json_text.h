// Checks of the JSON texts that requests carry. Stateless; any thread.
#ifndef PACELINE_ROUTER_ADMISSION_JSON_TEXT_H_
#define PACELINE_ROUTER_ADMISSION_JSON_TEXT_H_

#include <cstdint>
#include <optional>
#include <string_view>

#include "router/core/api_error.h"

namespace paceline::router {

// Whether `text` is one well-formed JSON array, nested at most `max_depth` deep.
bool IsJsonArray(std::string_view text, int32_t max_depth);

// chat_template_kwargs_json: empty, or a JSON object of at most `max_bytes` and `max_depth` that
// does not name a variable of the template's own (messages, tools, …).
std::optional<ApiError> ValidateTemplateKwargs(std::string_view text,
                                               int32_t max_bytes,
                                               int32_t max_depth);

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_ADMISSION_JSON_TEXT_H_
