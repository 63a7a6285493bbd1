// Who is calling: API keys and the tenants they belong to. Keys are kept as SHA-256 digests only
// and compared in constant time. Owned by the process; immutable after construction, any thread.
#ifndef PACELINE_ROUTER_TENANCY_API_KEYS_H_
#define PACELINE_ROUTER_TENANCY_API_KEYS_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace paceline::router {

// Everybody, while no keys are set; equal to kDefaultTenant of router/core.
inline constexpr std::string_view kAnonymousTenant = "default";

class ApiKeys {
 public:
  // No keys: every caller is kAnonymousTenant.
  ApiKeys() = default;

  // `specs`: entries of --api-key or --admin-key, each "KEY" or "TENANT:KEY", several joined
  // by commas. KEY: 1..512 printable ASCII characters but space, comma and colon. TENANT: 1..64 of
  // a-z 0-9 _ -. A key without a tenant is its own tenant ("key-" and 8 digits of its digest), so
  // callers with different keys do not share prefixes. Several keys may name one tenant.
  // InvalidArgument, without the key's bytes in it, when an entry is malformed or given twice.
  static absl::StatusOr<ApiKeys> Parse(const std::vector<std::string>& specs);

  bool required() const { return !keys_.empty(); }

  // The tenant of `bearer` (the credential after "Bearer "); nullopt when keys are set and none
  // matches. Takes the same time for every wrong key of a length.
  std::optional<std::string> Authenticate(std::string_view bearer) const;

 private:
  using Digest = std::array<uint8_t, 32>;
  struct Entry {
    Digest digest;
    std::string tenant;
  };
  std::vector<Entry> keys_;
};

// The cache salt that a worker sees: no two (tenant, salt) pairs share cached prefixes. Empty for
// the default tenant without a salt, else 64 hexadecimal digits.
std::string TenantCacheSalt(std::string_view tenant, std::string_view cache_salt);

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_TENANCY_API_KEYS_H_
