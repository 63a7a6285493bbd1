// What both front ends read from a request's surroundings: bearer key, request id.
// Stateless functions; any thread.
#ifndef PACELINE_ROUTER_CORE_REQUEST_CONTEXT_H_
#define PACELINE_ROUTER_CORE_REQUEST_CONTEXT_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <variant>

#include "router/core/api_error.h"

namespace paceline::router {

inline constexpr char kDefaultTenant[] = "default";
inline constexpr size_t kMaxRequestIdBytes = 128;
inline constexpr size_t kMaxKeyBytes = 512;

// Maps an API key to its tenant, or to the 401 or 403 that it deserves. Called from any thread,
// must not block. A null function means that no keys are set: everybody is kDefaultTenant.
using Authenticate = std::function<std::variant<std::string, ApiError>(std::string_view key)>;

// The one answer to a missing, malformed or unknown key; it never says which.
inline ApiError UnauthenticatedError() {
  return ApiError{.status = absl::StatusCode::kUnauthenticated,
                  .message = "A valid API key is required: Authorization: Bearer <key>",
                  .code = "invalid_api_key"};
}

// The key of "Bearer <key>", or nullopt. The scheme is case-insensitive; the key is 1..512
// printable ASCII characters without spaces.
inline std::optional<std::string_view> BearerKey(std::string_view authorization) {
  constexpr std::string_view kScheme = "bearer ";
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  const bool is_bearer =
      authorization.size() > kScheme.size() &&
      std::equal(kScheme.begin(), kScheme.end(), authorization.begin(), [&](char want, char c) {
        return want == lower(c);
      });
  if (!is_bearer) return std::nullopt;
  authorization.remove_prefix(kScheme.size());
  const bool printable = std::all_of(
      authorization.begin(), authorization.end(), [](char c) { return c > ' ' && c < 0x7f; });
  if (!printable || authorization.empty() || authorization.size() > kMaxKeyBytes) {
    return std::nullopt;
  }
  return authorization;
}

// The tenant of a request that came with `authorization` (nullopt: without, or with several).
inline std::variant<std::string, ApiError> TenantOf(const Authenticate& authenticate,
                                                    std::optional<std::string_view> authorization) {
  if (!authenticate) return std::string(kDefaultTenant);
  const auto key = authorization ? BearerKey(*authorization) : std::nullopt;
  if (!key) return UnauthenticatedError();
  return authenticate(*key);
}

// A metric's label: "none" for who was not asked or not let in, "default" without keys, "keyed".
inline std::string_view TenantClass(std::string_view tenant) {
  if (tenant.empty()) return "none";
  return tenant == kDefaultTenant ? "default" : "keyed";
}

// 1..128 printable ASCII characters.
inline bool IsValidRequestId(std::string_view id) {
  return !id.empty() && id.size() <= kMaxRequestIdBytes &&
         std::all_of(id.begin(), id.end(), [](char c) { return c >= ' ' && c < 0x7f; });
}

// 128 random bits in hexadecimal.
inline std::string NewRequestId() {
  static constexpr char kHex[] = "0123456789abcdef";
  thread_local std::random_device device;
  std::string id;
  id.reserve(32);
  for (int word = 0; word < 4; ++word) {
    uint32_t bits = device();
    for (int i = 0; i < 8; ++i, bits >>= 4) id.push_back(kHex[bits & 15]);
  }
  return id;
}

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_CORE_REQUEST_CONTEXT_H_
