#include "router/balance/policies.h"

#include <utility>

namespace paceline::router {
namespace {

constexpr std::pair<std::string_view, PolicyFn> kPolicies[] = {
    {"prefix", PickByPrefix},
    {"least_loaded", PickLeastLoaded},
    {"power_of_two", PickPowerOfTwo},
    {"round_robin", PickRoundRobin},
    {"session", PickBySession},
};

}  // namespace

PolicyFn FindPolicy(std::string_view name) {
  for (const auto& [known, policy] : kPolicies) {
    if (known == name) return policy;
  }
  return nullptr;
}

std::string PolicyNames() {
  std::string names;
  for (const auto& [name, policy] : kPolicies) {
    if (!names.empty()) names += ", ";
    names += name;
  }
  return names;
}

}  // namespace paceline::router
