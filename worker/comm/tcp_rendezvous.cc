#include "worker/comm/tcp_rendezvous.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <functional>
#include <optional>
#include <random>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "openssl/crypto.h"
#include "openssl/hmac.h"
#include "openssl/rand.h"
#include "proto/support/clock.h"
#include "proto/support/log.h"
#include "proto/support/status_macros.h"
#include "worker/comm/communicator.h"

namespace paceline::worker {
namespace {

constexpr uint64_t kMagic = 0x5061636554637032;  // changes with the messages
constexpr size_t kMaxGreeting = 256;             // connections that have not said who they are
// A rank that waits for the answer gives rank 0 this much longer, to hear who is missing.
constexpr int64_t kGraceNs = 2'000'000'000;

using Bytes32 = std::array<unsigned char, 32>;

enum Kind : uint32_t { kJoin = 1, kControl, kData };

// What the accepting side says at once: a number that no other connection has.
struct Challenge {
  uint64_t magic = kMagic;
  Bytes32 nonce = {};
};

// The connecting side's answer.
struct Hello {
  uint64_t magic = kMagic;
  uint32_t kind = 0;
  int32_t rank = 0;
  int32_t size = 0;
  uint32_t listen_port = 0;  // kJoin: where higher ranks reach this one
  uint64_t incarnation = 0;  // not kJoin: as rank 0 said
  char group[128] = {};
  Bytes32 nonce = {};  // what rank 0 proves its token by
  Bytes32 proof = {};  // of the token, for all above and the challenge
};
constexpr size_t kProvenBytes = offsetof(Hello, proof);

// Rank 0's to kJoin; when `code` is OK, `size` places follow, and the proof for all of it.
struct Answer {
  uint64_t incarnation = 0;
  int32_t code = 0;
  char text[236] = {};
};
struct Place {
  char host[64] = {};
  uint32_t port = 0;
};

Hello MakeHello(const TcpOptions& options, int rank, Kind kind) {
  Hello hello;
  hello.kind = kind;
  hello.rank = rank;
  hello.size = options.size;
  std::copy(options.group.begin(), options.group.end(), hello.group);
  return hello;
}

// Only who knows `token` can make it.
Bytes32 Proof(const std::string& token, const Bytes32& nonce, std::string_view message) {
  std::string text(nonce.begin(), nonce.end());
  text += message;
  Bytes32 proof;
  unsigned int length = 0;
  HMAC(EVP_sha256(),
       token.data(),
       static_cast<int>(token.size()),
       reinterpret_cast<const unsigned char*>(text.data()),
       text.size(),
       proof.data(),
       &length);
  return proof;
}

bool IsEqual(const Bytes32& a, const Bytes32& b) {
  return CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

// What this side shows; without tokens both sides prove the empty one.
std::string OwnToken(const TcpOptions& options) {
  return options.tokens.empty() ? "" : options.tokens.front();
}

std::string_view ProvenPart(const Hello& hello) {
  return {reinterpret_cast<const char*>(&hello), kProvenBytes};
}

// The one of `options` that `hello` proves; nullopt when it is none.
std::optional<std::string> TokenOf(const TcpOptions& options,
                                   const Bytes32& nonce,
                                   const Hello& hello) {
  std::vector<std::string> tokens = options.tokens;
  if (tokens.empty()) tokens.emplace_back();
  for (const std::string& token : tokens) {
    if (IsEqual(Proof(token, nonce, ProvenPart(hello)), hello.proof)) return token;
  }
  return std::nullopt;
}

Bytes32 NewNonce() {
  Bytes32 nonce;
  PACELINE_CHECK(RAND_bytes(nonce.data(), static_cast<int>(nonce.size())) == 1, "no random bytes");
  return nonce;
}

// Says `hello` to who accepted `socket`, with the proof for its challenge.
absl::Status Greet(const TcpOptions& options,
                   const Socket& socket,
                   Hello& hello,
                   int64_t deadline_ns) {
  Challenge challenge;
  RETURN_IF_ERROR(ReadAll(socket, &challenge, sizeof(challenge), deadline_ns));
  if (challenge.magic != kMagic) return absl::FailedPreconditionError("it is of another build");
  hello.nonce = NewNonce();
  hello.proof = Proof(OwnToken(options), challenge.nonce, ProvenPart(hello));
  return WriteAll(socket, &hello, sizeof(hello), deadline_ns);
}

// A connection that has said who it is.
struct Greeted {
  Hello hello;
  std::optional<std::string> token;  // that it has proven; nullopt: none of ours
  Socket socket;
};

// Accepts connections and hands over each with its hello, until `take` returns true. Those that
// say nothing, or nonsense, are dropped and delay nobody.
absl::Status AcceptUntil(const TcpOptions& options,
                         const Socket& listener,
                         int64_t deadline_ns,
                         const std::function<bool(Greeted)>& take) {
  struct Greeting {
    Socket socket;
    Bytes32 nonce;
    Hello hello;
    size_t bytes = 0;
  };
  std::vector<Greeting> greetings;
  std::vector<pollfd> polls;
  while (SteadyClock::Get().NowNs() < deadline_ns) {
    polls.assign(1, {listener.fd(), POLLIN, 0});
    for (const Greeting& greeting : greetings) polls.push_back({greeting.socket.fd(), POLLIN, 0});
    poll(polls.data(), polls.size(), PollMs(deadline_ns));
    for (Greeting& greeting : greetings) {
      const ssize_t n = recv(greeting.socket.fd(),
                             reinterpret_cast<char*>(&greeting.hello) + greeting.bytes,
                             sizeof(Hello) - greeting.bytes,
                             0);
      if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
      greeting.bytes += static_cast<size_t>(std::max<ssize_t>(n, 0));
      if (n > 0 && greeting.bytes < sizeof(Hello)) continue;
      Socket socket = std::move(greeting.socket);  // closed unless taken
      if (greeting.bytes < sizeof(Hello) || greeting.hello.magic != kMagic) continue;
      std::optional<std::string> token = TokenOf(options, greeting.nonce, greeting.hello);
      greeting.hello.group[sizeof(Hello::group) - 1] = '\0';
      if (take({greeting.hello, std::move(token), std::move(socket)})) return absl::OkStatus();
    }
    std::erase_if(greetings, [](const Greeting& greeting) { return !greeting.socket.is_open(); });
    if (polls[0].revents == 0) continue;
    Socket socket = AcceptTcp(listener);
    if (!socket.is_open()) continue;
    if (greetings.size() == kMaxGreeting) greetings.erase(greetings.begin());
    const Challenge challenge{.nonce = NewNonce()};
    if (!WriteAll(socket, &challenge, sizeof(challenge), 0).ok()) continue;
    greetings.push_back({std::move(socket), challenge.nonce, {}, 0});
  }
  return absl::DeadlineExceededError("");
}

// Whether the other side has gone; it says nothing before it is answered.
bool IsClosed(const Socket& socket) {
  char byte;
  const ssize_t n = recv(socket.fd(), &byte, 1, MSG_PEEK);
  return n == 0 || (n < 0 && errno != EAGAIN);
}

// Best effort: who is told has 300 bytes of room in an empty socket, or is gone.
void Tell(const Socket& socket, const absl::Status& status) {
  Answer answer;
  answer.code = status.raw_code();
  const size_t length = std::min(status.message().size(), sizeof(Answer::text) - 1);
  std::copy_n(status.message().begin(), length, answer.text);
  (void)WriteAll(socket, &answer, sizeof(answer), 0);
}

// The data and control connections that higher ranks open to this one.
absl::Status AcceptMesh(const TcpOptions& options,
                        int rank,
                        uint64_t incarnation,
                        const Socket& listener,
                        int64_t deadline_ns,
                        TcpMesh& mesh) {
  const auto missing = [&] {
    std::vector<int> ranks;
    for (int peer = rank + 1; peer < options.size; ++peer) {
      if (!mesh.data[peer].is_open() || !mesh.control[peer].is_open()) ranks.push_back(peer);
    }
    return ranks;
  };
  if (missing().empty()) return absl::OkStatus();
  const auto take = [&](Greeted peer) {
    const Hello& hello = peer.hello;
    if (!peer.token.has_value() || hello.incarnation != incarnation || hello.rank <= rank ||
        hello.rank >= options.size) {
      return false;
    }
    if (hello.kind == kControl) mesh.control[hello.rank] = std::move(peer.socket);
    if (hello.kind == kData) mesh.data[hello.rank] = std::move(peer.socket);
    return missing().empty();
  };
  if (AcceptUntil(options, listener, deadline_ns, take).ok()) return absl::OkStatus();
  return absl::DeadlineExceededError(absl::StrCat("rank ",
                                                  missing().front(),
                                                  " of ",
                                                  options.size,
                                                  " joined but did not connect to this rank"));
}

// As they go over the wire.
std::string WithPlaces(const Answer& answer, const std::vector<Place>& places) {
  std::string message(reinterpret_cast<const char*>(&answer), sizeof(answer));
  message.append(reinterpret_cast<const char*>(places.data()), places.size() * sizeof(Place));
  return message;
}

absl::StatusOr<TcpMesh> Lead(const TcpOptions& options, const Socket& listener, TcpMesh mesh) {
  const int64_t deadline_ns = DeadlineNs(options.join_timeout_ms);
  std::random_device random;
  const uint64_t incarnation = uint64_t{random()} << 32 | random();
  mesh.incarnation = incarnation;
  std::vector<Place> places(options.size);
  std::vector<Bytes32> nonces(options.size);
  std::vector<std::string> tokens(options.size);
  const auto refusal = [&](const Greeted& peer) -> absl::Status {
    const Hello& hello = peer.hello;
    if (!peer.token.has_value()) {
      return absl::FailedPreconditionError(absl::StrCat("rank 0 at ",
                                                        options.master_addr,
                                                        ":",
                                                        options.master_port,
                                                        " does not take this rank's token"));
    }
    if (hello.group != options.group) {
      return absl::FailedPreconditionError(
          absl::StrCat("rank 0 at ",
                       options.master_addr,
                       ":",
                       options.master_port,
                       " is of another group, or of another incarnation of it"));
    }
    if (hello.size != options.size || hello.rank <= 0 || hello.rank >= options.size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "rank ", hello.rank, " of ", hello.size, " cannot join a group of ", options.size));
    }
    const Socket& seat = mesh.control[hello.rank];
    if (seat.is_open() && !IsClosed(seat)) {
      return absl::AlreadyExistsError(
          absl::StrCat("rank ", hello.rank, " has joined already, from ", PeerEndpoint(seat).host));
    }
    return absl::OkStatus();
  };
  const auto missing = [&] {
    std::string ranks;
    for (int peer = 1; peer < options.size; ++peer) {
      if (mesh.control[peer].is_open() && !IsClosed(mesh.control[peer])) continue;
      absl::StrAppend(&ranks, ranks.empty() ? "" : ", ", peer);
    }
    return ranks;
  };
  const absl::Status all = AcceptUntil(options, listener, deadline_ns, [&](Greeted peer) {
    const Hello& hello = peer.hello;
    Socket& socket = peer.socket;
    if (hello.kind != kJoin) return false;
    if (const absl::Status refused = refusal(peer); !refused.ok()) {
      spdlog::warn(
          "a rank at {} is refused: {}", PeerEndpoint(socket).host, std::string(refused.message()));
      Tell(socket, refused);
      return false;
    }
    nonces[hello.rank] = hello.nonce;
    tokens[hello.rank] = *peer.token;
    Place& place = places[hello.rank];
    const std::string host = PeerEndpoint(socket).host;
    std::memset(place.host, 0, sizeof(place.host));
    std::memcpy(place.host, host.data(), std::min(host.size(), sizeof(place.host) - 1));
    place.port = hello.listen_port;
    mesh.control[hello.rank] = std::move(socket);
    return missing().empty();
  });
  if (!all.ok()) {
    const absl::Status status = absl::DeadlineExceededError(absl::StrCat("rank ",
                                                                         missing(),
                                                                         " of ",
                                                                         options.size,
                                                                         " did not join ",
                                                                         options.master_addr,
                                                                         ":",
                                                                         options.master_port,
                                                                         " within ",
                                                                         options.join_timeout_ms,
                                                                         " ms"));
    for (const Socket& socket : mesh.control) {
      if (socket.is_open()) Tell(socket, status);
    }
    return status;
  }
  for (int peer = 1; peer < options.size; ++peer) {
    const std::string message = WithPlaces({.incarnation = incarnation}, places);
    const Bytes32 proof = Proof(tokens[peer], nonces[peer], message);
    RETURN_IF_ERROR(WriteAll(mesh.control[peer], message.data(), message.size(), deadline_ns));
    RETURN_IF_ERROR(WriteAll(mesh.control[peer], proof.data(), proof.size(), deadline_ns));
  }
  RETURN_IF_ERROR(AcceptMesh(options, 0, incarnation, listener, deadline_ns + kGraceNs, mesh));
  return mesh;
}

absl::StatusOr<TcpMesh> Follow(const TcpOptions& options, int rank, TcpMesh mesh) {
  const int64_t deadline_ns = DeadlineNs(options.join_timeout_ms);
  const std::string master = absl::StrCat(options.master_addr, ":", options.master_port);
  absl::StatusOr<Socket> leader = ConnectTcp(options.master_addr, options.master_port, deadline_ns);
  if (!leader.ok()) {
    return absl::Status(leader.status().code(),
                        absl::StrCat("rank 0 cannot be reached at ",
                                     master,
                                     " within ",
                                     options.join_timeout_ms,
                                     " ms: ",
                                     leader.status().message()));
  }
  // Where this host is seen from: higher ranks reach it there.
  ASSIGN_OR_RETURN(const Socket listener, ListenTcp(LocalEndpoint(*leader).host, 0));
  Hello hello = MakeHello(options, rank, kJoin);
  hello.listen_port = static_cast<uint32_t>(LocalEndpoint(listener).port);
  Answer answer;
  std::vector<Place> places(options.size);
  Bytes32 proof = {};
  absl::Status heard = Greet(options, *leader, hello, deadline_ns);
  const int64_t answer_ns = deadline_ns == kNoTimeout ? kNoTimeout : deadline_ns + kGraceNs;
  if (heard.ok()) heard = ReadAll(*leader, &answer, sizeof(answer), answer_ns);
  if (heard.ok() && answer.code != 0) {
    answer.text[sizeof(Answer::text) - 1] = '\0';
    return absl::Status(static_cast<absl::StatusCode>(answer.code), answer.text);
  }
  if (heard.ok()) heard = ReadAll(*leader, places.data(), places.size() * sizeof(Place), answer_ns);
  if (heard.ok()) heard = ReadAll(*leader, proof.data(), proof.size(), answer_ns);
  if (!heard.ok()) {
    return absl::Status(heard.code(),
                        absl::StrCat("rank 0 at ", master, " does not answer: ", heard.message()));
  }
  if (!IsEqual(proof, Proof(OwnToken(options), hello.nonce, WithPlaces(answer, places)))) {
    return absl::FailedPreconditionError(
        absl::StrCat("rank 0 at ", master, " does not prove that it knows this rank's token"));
  }
  hello.incarnation = answer.incarnation;
  mesh.incarnation = answer.incarnation;
  mesh.control[0] = *std::move(leader);
  for (int peer = 0; peer < rank; ++peer) {
    places[peer].host[sizeof(Place::host) - 1] = '\0';
    const std::string host = peer == 0 ? options.master_addr : places[peer].host;
    const int port = peer == 0 ? options.master_port : static_cast<int>(places[peer].port);
    for (const Kind kind : {kControl, kData}) {
      if (kind == kControl && peer == 0) continue;
      absl::StatusOr<Socket> socket = ConnectTcp(host, port, answer_ns);
      hello.kind = kind;
      const absl::Status said =
          socket.ok() ? Greet(options, *socket, hello, answer_ns) : socket.status();
      if (!said.ok()) {
        return absl::Status(
            said.code(),
            absl::StrCat(
                "rank ", peer, " cannot be reached at ", host, ":", port, ": ", said.message()));
      }
      (kind == kControl ? mesh.control : mesh.data)[peer] = *std::move(socket);
    }
  }
  RETURN_IF_ERROR(AcceptMesh(options, rank, answer.incarnation, listener, answer_ns, mesh));
  return mesh;
}

}  // namespace

absl::StatusOr<TcpMesh> JoinTcpMesh(const TcpOptions& options, int rank, Socket listener) {
  if (options.size < 1 || options.size > kMaxCommRanks || rank < 0 || rank >= options.size ||
      options.group.size() >= sizeof(Hello::group)) {
    return absl::InvalidArgumentError(
        absl::StrCat("no rank ", rank, " of ", options.size, ", or the group's name is too long"));
  }
  TcpMesh mesh;
  mesh.data.resize(options.size);
  mesh.control.resize(options.size);
  if (options.size == 1) return mesh;
  if (rank > 0) return Follow(options, rank, std::move(mesh));
  if (!listener.is_open()) {
    ASSIGN_OR_RETURN(listener, ListenTcp(options.master_addr, options.master_port));
  }
  return Lead(options, listener, std::move(mesh));
}

}  // namespace paceline::worker
