// The table of balancing policies. A policy is one file and one line in policies.cc. Stateless.
#ifndef PACELINE_ROUTER_BALANCE_POLICIES_H_
#define PACELINE_ROUTER_BALANCE_POLICIES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/types/span.h"
#include "router/fleet/fleet_snapshot.h"

namespace paceline::router {

struct RequestView;

// A replica that can run the request now.
struct Candidate {
  const ReplicaView* replica = nullptr;
  int64_t matched_tokens = 0;  // of the prompt, in its prefix cache
};

// Chooses one of `candidates` and returns its position. REQUIRES: candidates is not empty.
using PolicyFn = size_t (*)(const RequestView& request, absl::Span<const Candidate> candidates);

inline constexpr std::string_view kDefaultPolicy = "prefix";

// nullptr when there is no policy `name`.
PolicyFn FindPolicy(std::string_view name);
// "prefix, least_loaded, …": for error messages and --help.
std::string PolicyNames();

// Least cost, in blocks: prompt tokens to compute before and for this request (those in the prefix
// cache are free), plus the blocks that running sequences read at every step.
size_t PickByPrefix(const RequestView& request, absl::Span<const Candidate> candidates);
// Fewest sequences, then fewest uncomputed prompt tokens.
size_t PickLeastLoaded(const RequestView& request, absl::Span<const Candidate> candidates);
// The less loaded of two at random.
size_t PickPowerOfTwo(const RequestView& request, absl::Span<const Candidate> candidates);
// Each in turn.
size_t PickRoundRobin(const RequestView& request, absl::Span<const Candidate> candidates);
// Requests of a session stay together as long as their replica is a candidate (rendezvous hashing:
// when it is not, only its own sessions move). Without a session: least loaded.
size_t PickBySession(const RequestView& request, absl::Span<const Candidate> candidates);

// Whether `a` has less to do than `b`: the order of least_loaded.
bool IsLessLoaded(const ReplicaView& a, const ReplicaView& b);

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_BALANCE_POLICIES_H_
