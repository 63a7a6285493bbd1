// The error object of the OpenAI API. Stateless; any thread.
#ifndef PACELINE_ROUTER_OPENAI_ERRORS_H_
#define PACELINE_ROUTER_OPENAI_ERRORS_H_

#include <string>

#include "router/core/api_error.h"

namespace paceline::router {

// The status code of an HTTP answer that carries `error`.
int HttpStatusOf(const ApiError& error);

// {"error":{"message","type","param","code"}}
std::string ErrorJson(const ApiError& error);

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_OPENAI_ERRORS_H_
