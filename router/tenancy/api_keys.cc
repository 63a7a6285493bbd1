#include "router/tenancy/api_keys.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "openssl/crypto.h"
#include "openssl/sha.h"

namespace paceline::router {
namespace {

constexpr size_t kMaxKeyLength = 512;
constexpr size_t kMaxTenantBytes = 64;

std::array<uint8_t, 32> Sha256(std::string_view bytes) {
  std::array<uint8_t, 32> digest;
  SHA256(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), digest.data());
  return digest;
}

std::string Hex(const uint8_t* bytes, size_t count) {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(bytes), count));
}

bool IsKey(std::string_view text) {
  return !text.empty() && text.size() <= kMaxKeyLength &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isgraph(static_cast<unsigned char>(c)) && c != ',' && c != ':';
         });
}

bool IsTenant(std::string_view text) {
  return !text.empty() && text.size() <= kMaxTenantBytes &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_islower(static_cast<unsigned char>(c)) ||
                  absl::ascii_isdigit(static_cast<unsigned char>(c)) || c == '_' || c == '-';
         });
}

}  // namespace

absl::StatusOr<ApiKeys> ApiKeys::Parse(const std::vector<std::string>& specs) {
  ApiKeys result;
  int number = 0;
  for (const std::string& spec : specs) {
    for (absl::string_view entry : absl::StrSplit(spec, ',', absl::SkipWhitespace())) {
      ++number;
      entry = absl::StripAsciiWhitespace(entry);
      std::string_view key(entry.data(), entry.size());
      std::string tenant;
      if (const size_t colon = key.find(':'); colon != std::string_view::npos) {
        tenant = std::string(key.substr(0, colon));
        key.remove_prefix(colon + 1);
        if (!IsTenant(tenant)) {
          return absl::InvalidArgumentError(absl::StrCat(
              "entry ", number, ": the tenant is not 1..64 characters of a-z 0-9 _ -"));
        }
      }
      if (!IsKey(key)) {
        return absl::InvalidArgumentError(absl::StrCat(
            "entry ",
            number,
            ": the key is not 1..512 printable characters without space, comma and colon"));
      }
      const Digest digest = Sha256(key);
      if (tenant.empty()) tenant = absl::StrCat("key-", Hex(digest.data(), 4));
      for (const Entry& other : result.keys_) {
        if (other.digest == digest) {
          return absl::InvalidArgumentError(
              absl::StrCat("entry ", number, " is given twice"));
        }
      }
      result.keys_.push_back(Entry{.digest = digest, .tenant = std::move(tenant)});
    }
  }
  // An option that is set but holds no key must not open the server to everybody.
  if (!specs.empty() && result.keys_.empty()) {
    return absl::InvalidArgumentError("set, but holds no key");
  }
  return result;
}

std::optional<std::string> ApiKeys::Authenticate(std::string_view bearer) const {
  if (keys_.empty()) return std::string(kAnonymousTenant);
  const Digest digest = Sha256(bearer);
  const Entry* found = nullptr;
  for (const Entry& entry : keys_) {  // no early exit: the time does not tell which entry matched
    if (CRYPTO_memcmp(digest.data(), entry.digest.data(), digest.size()) == 0) found = &entry;
  }
  if (found == nullptr) return std::nullopt;
  return found->tenant;
}

std::string TenantCacheSalt(std::string_view tenant, std::string_view cache_salt) {
  if (cache_salt.empty() && (tenant.empty() || tenant == kAnonymousTenant)) return "";
  // The length in front keeps ("ab", "c") and ("a", "bc") apart.
  const auto digest = Sha256(absl::StrCat(tenant.size(),
                                          ":",
                                          absl::string_view(tenant.data(), tenant.size()),
                                          absl::string_view(cache_salt.data(), cache_salt.size())));
  return Hex(digest.data(), digest.size());
}

}  // namespace paceline::router
