// The text work of a request before it is queued: validate, render, tokenise, truncate, and check
// that it fits. Stateless; any thread, never the loop's (it may take up to a second).
#ifndef PACELINE_ROUTER_DISPATCH_PREPARE_H_
#define PACELINE_ROUTER_DISPATCH_PREPARE_H_

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "proto/support/clock.h"
#include "router/admission/validate.h"
#include "router/core/call.h"
#include "router/dispatch/catalog.h"

namespace paceline::router {

struct Prepared {
  ResolvedRequest request;  // complete
  std::vector<int32_t> prompt_ids;
  std::string echo_text;  // what goes before each choice's output
};

// When the text work was done, on `clock`; 0: it was not.
struct TextTimes {
  int64_t begin_ns = 0;
  int64_t rendered_ns = 0;  // chats only
  int64_t encoded_ns = 0;   // 0 for token ids, too
};

std::variant<Prepared, ApiError> Prepare(const CallRequest& call,
                                         const Model& model,
                                         const ParameterLimits& limits,
                                         const Clock& clock,
                                         TextTimes& times);

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_DISPATCH_PREPARE_H_
