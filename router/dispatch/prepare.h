// The text work of a request before it is queued: validate, render, tokenise, truncate, and check
// that it fits. Stateless; any thread, never the loop's (it may take up to a second).
#ifndef PACELINE_ROUTER_DISPATCH_PREPARE_H_
#define PACELINE_ROUTER_DISPATCH_PREPARE_H_

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "router/admission/validate.h"
#include "router/core/call.h"
#include "router/dispatch/catalog.h"

namespace paceline::router {

struct Prepared {
  ResolvedRequest request;  // complete
  std::vector<int32_t> prompt_ids;
  std::string echo_text;  // what goes before each choice's output
};

std::variant<Prepared, ApiError> Prepare(const CallRequest& call,
                                         const Model& model,
                                         const ParameterLimits& limits);

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_DISPATCH_PREPARE_H_
