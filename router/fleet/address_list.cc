#include "router/fleet/address_list.h"

#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "proto/support/status_macros.h"

namespace paceline::router {
namespace {

constexpr absl::string_view kDnsScheme = "dns:///";
constexpr absl::string_view kKubernetesScheme = "kubernetes:///";

// Splits at the last colon; a host with colons of its own must stand in brackets.
absl::StatusOr<std::pair<std::string, std::string>> SplitHostPort(absl::string_view address) {
  const size_t colon = address.rfind(':');
  if (colon == absl::string_view::npos || colon == 0) {
    return absl::InvalidArgumentError("workers: expected host:port");
  }
  const absl::string_view host = address.substr(0, colon);
  const absl::string_view port = address.substr(colon + 1);
  int32_t number = 0;
  if (!absl::SimpleAtoi(port, &number) || number < 1 || number > 65535) {
    return absl::InvalidArgumentError("workers: the port is not within 1..65535");
  }
  const bool in_brackets = host.front() == '[' && host.back() == ']';
  if (absl::StrContains(host, ":") && !in_brackets) {
    return absl::InvalidArgumentError("workers: an IPv6 address needs brackets, [::1]:50061");
  }
  for (const char c : host) {
    if (!absl::ascii_isgraph(static_cast<unsigned char>(c)) || c == '/') {
      return absl::InvalidArgumentError("workers: a host name holds an invalid character");
    }
  }
  return std::pair(std::string(host), std::string(port));
}

// As Kubernetes names Services, namespaces and ports.
bool IsLabel(absl::string_view text) {
  const auto is_good = [](char c) {
    return absl::ascii_islower(static_cast<unsigned char>(c)) ||
           absl::ascii_isdigit(static_cast<unsigned char>(c)) || c == '-';
  };
  return !text.empty() && text.size() <= 63 && std::all_of(text.begin(), text.end(), is_good);
}

absl::StatusOr<WorkerAddresses> ParseService(absl::string_view text) {
  const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(text, ':');
  const std::pair<absl::string_view, absl::string_view> names =
      absl::StrSplit(parts.first, absl::MaxSplits('.', 1));
  WorkerAddresses result{.service = std::string(names.first),
                         .name_space = std::string(names.second),
                         .service_port = std::string(parts.second)};
  if (!IsLabel(result.service) || !IsLabel(result.service_port) ||
      !(result.name_space.empty() || IsLabel(result.name_space))) {
    return absl::InvalidArgumentError(
        "workers: expected kubernetes:///service:port or kubernetes:///service.namespace:port");
  }
  int32_t number = 0;
  if (absl::SimpleAtoi(result.service_port, &number) && (number < 1 || number > 65535)) {
    return absl::InvalidArgumentError("workers: the port is not within 1..65535");
  }
  return result;
}

}  // namespace

absl::StatusOr<WorkerAddresses> ParseWorkerAddresses(std::string_view spec) {
  const absl::string_view text =
      absl::StripAsciiWhitespace(absl::string_view(spec.data(), spec.size()));
  WorkerAddresses result;
  if (absl::StartsWith(text, kDnsScheme)) {
    ASSIGN_OR_RETURN(auto host_port, SplitHostPort(text.substr(kDnsScheme.size())));
    result.dns_name = std::move(host_port.first);
    result.dns_port = std::move(host_port.second);
    return result;
  }
  if (absl::StartsWith(text, kKubernetesScheme)) {
    return ParseService(text.substr(kKubernetesScheme.size()));
  }
  for (absl::string_view entry : absl::StrSplit(text, ',')) {
    entry = absl::StripAsciiWhitespace(entry);
    if (entry.empty()) return absl::InvalidArgumentError("workers: an entry is empty");
    RETURN_IF_ERROR(SplitHostPort(entry).status());
    if (std::find(result.fixed.begin(), result.fixed.end(), entry) != result.fixed.end()) {
      return absl::InvalidArgumentError("workers: an address is given twice");
    }
    result.fixed.emplace_back(entry);
  }
  return result;
}

absl::StatusOr<std::vector<std::string>> ResolveAddresses(const std::string& name,
                                                          const std::string& port) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  if (const int error = getaddrinfo(name.c_str(), port.c_str(), &hints, &list); error != 0) {
    return absl::UnavailableError(absl::StrCat("name look-up failed: ", gai_strerror(error)));
  }
  std::vector<std::string> addresses;
  for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
    char host[NI_MAXHOST];
    if (getnameinfo(
            entry->ai_addr, entry->ai_addrlen, host, sizeof(host), nullptr, 0, NI_NUMERICHOST) !=
        0) {
      continue;
    }
    addresses.push_back(entry->ai_family == AF_INET6 ? absl::StrCat("[", host, "]:", port)
                                                     : absl::StrCat(host, ":", port));
  }
  freeaddrinfo(list);
  std::sort(addresses.begin(), addresses.end());
  addresses.erase(std::unique(addresses.begin(), addresses.end()), addresses.end());
  return addresses;
}

}  // namespace paceline::router
