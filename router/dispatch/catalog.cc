#include "router/dispatch/catalog.h"

#include "router/dispatch/errors.h"

namespace paceline::router {

std::variant<std::shared_ptr<const Model>, ApiError> Models::Find(const std::string& name) const {
  if (by_id.empty()) return NoReadyReplicaError();
  if (name.empty()) {
    if (by_id.size() == 1) return by_id.begin()->second;
    return InvalidParam("model", "model is required: this server has several");
  }
  const auto found = by_id.find(name);
  if (found == by_id.end()) return ModelNotFoundError();
  return found->second;
}

}  // namespace paceline::router
