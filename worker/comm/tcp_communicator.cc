#include "worker/comm/tcp_communicator.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/support/clock.h"
#include "proto/support/status_macros.h"
#include "worker/comm/step.h"
#include "worker/comm/sum.h"

namespace paceline::worker {
namespace {

constexpr int64_t kReduceBytes = 256 << 10;  // of a vector at a time; bounds the scratch memory
constexpr int kMaxPieces = 64;               // of one system call
constexpr size_t kEarlyBytes = 256 << 10;    // read at a time while waiting to send
constexpr int64_t kNewsNs = 1'000'000'000;   // how much later than its data a peer's news may come

int64_t NowNs() { return SteadyClock::Get().NowNs(); }

// What goes over a control connection. Zeroes follow the text.
struct News {
  enum Kind : uint32_t { kLeft = 1, kAborted };
  uint32_t kind = 0;
  char text[252] = {};
};

// One message to or from one peer: its step, then rows of bytes.
struct Transfer {
  int peer;
  bool is_send;
  std::byte* data;
  int64_t num_rows;
  int64_t width;  // bytes of a row
  int64_t row_stride_bytes;
  Step step = {};    // receiving: what the peer said
  int64_t done = 0;  // bytes, of the step and then of the rows

  int64_t total() const { return static_cast<int64_t>(sizeof(Step)) + num_rows * width; }
  bool is_complete() const { return done == total(); }

  // What is left of it, as far as `pieces` reach; returns how many are used.
  int Pieces(std::array<iovec, kMaxPieces>& pieces) {
    int count = 0;
    const int64_t header = static_cast<int64_t>(sizeof(Step));
    if (done < header) {
      pieces[count++] = {reinterpret_cast<std::byte*>(&step) + done,
                         static_cast<size_t>(header - done)};
    }
    for (int64_t at = std::max(done - header, int64_t{0});
         at < num_rows * width && count < kMaxPieces;) {
      const int64_t in_row = at % width;
      pieces[count++] = {data + at / width * row_stride_bytes + in_row,
                         static_cast<size_t>(width - in_row)};
      at += width - in_row;
    }
    return count;
  }
};

class TcpCommunicator final : public Communicator {
 public:
  TcpCommunicator(TcpMesh mesh, int rank, int64_t spin_us)
      : Communicator(rank, static_cast<int>(mesh.data.size())),
        mesh_(std::move(mesh)),
        spin_ns_(spin_us * 1000),
        peers_(mesh_.data.size()),
        wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    for (int peer = 0; peer < size(); ++peer) {
      if (peer != rank) peers_[peer].host = PeerEndpoint(mesh_.control[peer]).host;
    }
  }

  ~TcpCommunicator() override { TellPeers(News::kLeft, ""); }

  void Abort(std::string_view reason) override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (aborted_.load()) return;
      abort_reason_ = std::string(reason);
      aborted_.store(true);
    }
    TellPeers(News::kAborted, reason);
    const uint64_t one = 1;
    (void)!write(wake_.fd(), &one, sizeof(one));
  }

 private:
  struct Peer {
    std::string host;
    // Read while this rank could not send: the peer may have to send before it takes anything.
    std::vector<std::byte> early;
    size_t early_taken = 0;
    bool has_ended = false;  // met while reading early
    News news;               // as far as it has come
    size_t news_bytes = 0;
    bool has_left = false;
  };

  absl::Status DoAllReduceSum(void* data, int64_t count, SumType type) override {
    StartOperation();
    const Step step = AllReduceStep(count, type);
    const int64_t per_step = kReduceBytes / BytesOf(type);
    std::vector<const void*> parts(size());
    int64_t first = 0;
    do {
      const int64_t n = std::min(per_step, count - first);
      const int64_t bytes = n * BytesOf(type);
      std::byte* const mine = static_cast<std::byte*>(data) + first * BytesOf(type);
      scratch_.resize(std::max(scratch_.size(), static_cast<size_t>(bytes * size())));
      transfers_.clear();
      for (int peer = 0; peer < size(); ++peer) {
        std::byte* const theirs = scratch_.data() + peer * bytes;
        parts[peer] = peer == rank() ? mine : theirs;
        if (peer != rank()) AddExchange(peer, mine, theirs, bytes);
      }
      RETURN_IF_ERROR(RunTransfers(step));
      SumInOrder(parts, n, type, mine);
      first += n;
    } while (first < count);
    return absl::OkStatus();
  }

  absl::Status DoAllGatherColumns(const ColumnShares& shares) override {
    StartOperation();
    transfers_.clear();
    for (int i = 1; i < size(); ++i) {
      const int peer = (rank() + i) % size();
      for (const bool is_send : {true, false}) {
        const int owner = is_send ? rank() : peer;
        transfers_.push_back({peer,
                              is_send,
                              shares.matrix + shares.begin(owner),
                              shares.num_rows,
                              shares.width(owner),
                              shares.row_stride_bytes});
      }
    }
    return RunTransfers(AllGatherStep(shares.num_rows, shares.end_bytes));
  }

  absl::Status DoBroadcast(absl::Span<std::byte> data, int root) override {
    StartOperation();
    const int64_t bytes = static_cast<int64_t>(data.size());
    transfers_.clear();
    for (int peer = 0; peer < size(); ++peer) {
      if (rank() == root ? peer == root : peer != root) continue;
      transfers_.push_back({peer, rank() == root, data.data(), 1, bytes, bytes});
    }
    return RunTransfers(BroadcastStep(bytes, root));
  }

  absl::Status DoSend(absl::Span<const std::byte> data, int to) override {
    StartOperation();
    const int64_t bytes = static_cast<int64_t>(data.size());
    transfers_.assign(1, {to, true, const_cast<std::byte*>(data.data()), 1, bytes, bytes});
    return RunTransfers(SendStep(bytes));
  }

  absl::Status DoRecv(absl::Span<std::byte> data, int from) override {
    StartOperation();
    const int64_t bytes = static_cast<int64_t>(data.size());
    transfers_.assign(1, {from, false, data.data(), 1, bytes, bytes});
    return RunTransfers(SendStep(bytes));
  }

  absl::Status DoCheckPeers() override {
    RETURN_IF_ERROR(WaitForNews(0));
    for (int peer = 0; peer < size(); ++peer) {
      if (!peers_[peer].has_left) continue;
      return absl::UnavailableError(absl::StrCat(NameOf(peer), " left the group"));
    }
    return absl::OkStatus();
  }

  void AddExchange(int peer, std::byte* mine, std::byte* theirs, int64_t bytes) {
    transfers_.push_back({peer, true, mine, 1, bytes, bytes});
    transfers_.push_back({peer, false, theirs, 1, bytes, bytes});
  }

  void StartOperation() { deadline_ns_ = DeadlineNs(timeout_ms()); }

  // All of `transfers_`, at the same time.
  absl::Status RunTransfers(const Step& step) {
    for (Transfer& transfer : transfers_) {
      if (transfer.is_send) transfer.step = step;
    }
    RETURN_IF_ERROR(WaitForNews(0));
    int64_t spin_until_ns = NowNs() + spin_ns_;
    while (true) {
      bool moved = false;
      bool complete = true;
      for (Transfer& transfer : transfers_) {
        if (!transfer.is_complete()) {
          ASSIGN_OR_RETURN(const bool some, Move(transfer, step));
          moved = moved || some;
        }
        complete = complete && transfer.is_complete();
      }
      if (complete) return absl::OkStatus();
      const int64_t now_ns = NowNs();
      if (moved) spin_until_ns = now_ns + spin_ns_;
      if (now_ns < spin_until_ns) continue;
      RETURN_IF_ERROR(WaitForNews(PollMs(deadline_ns_)));
      if (now_ns >= deadline_ns_) return TimedOut();
    }
  }

  // As much as goes without waiting; whether that was anything.
  absl::StatusOr<bool> Move(Transfer& transfer, const Step& step) {
    std::array<iovec, kMaxPieces> pieces;
    msghdr message = {};
    message.msg_iov = pieces.data();
    message.msg_iovlen = static_cast<size_t>(transfer.Pieces(pieces));
    const int fd = mesh_.data[transfer.peer].fd();
    const bool has_early = !transfer.is_send && !peers_[transfer.peer].early.empty();
    const ssize_t n = transfer.is_send ? sendmsg(fd, &message, MSG_NOSIGNAL)
                      : has_early      ? TakeEarly(peers_[transfer.peer], message)
                                       : recvmsg(fd, &message, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (n <= 0) return Lost(transfer.peer, n == 0 ? "connection closed" : std::strerror(errno));
    const int64_t before = transfer.done;
    transfer.done += n;
    constexpr int64_t kHeader = sizeof(Step);
    if (!transfer.is_send && before < kHeader && transfer.done >= kHeader) {
      RETURN_IF_ERROR(CheckSameStep(step, transfer.step, transfer.peer));
    }
    return true;
  }

  // As recvmsg, from what was read early.
  static ssize_t TakeEarly(Peer& peer, const msghdr& message) {
    ssize_t taken = 0;
    for (size_t i = 0; i < message.msg_iovlen; ++i) {
      const iovec& piece = message.msg_iov[i];
      const size_t n = std::min(piece.iov_len, peer.early.size() - peer.early_taken);
      std::memcpy(piece.iov_base, peer.early.data() + peer.early_taken, n);
      peer.early_taken += n;
      taken += static_cast<ssize_t>(n);
    }
    if (peer.early_taken == peer.early.size()) {
      peer.early.clear();
      peer.early_taken = 0;
    }
    return taken;
  }

  // While this rank cannot send: all peers that it is not receiving from, in rank order.
  void PollForEarly() {
    const auto is_open = [](const Transfer& transfer) { return !transfer.is_complete(); };
    if (std::none_of(transfers_.begin(), transfers_.end(), [&](const Transfer& transfer) {
          return is_open(transfer) && transfer.is_send;
        })) {
      return;
    }
    for (int peer = 0; peer < size(); ++peer) {
      const bool is_receiving = std::any_of(transfers_.begin(), transfers_.end(), [&](auto& t) {
        return is_open(t) && !t.is_send && t.peer == peer;
      });
      const bool reads = peer != rank() && !is_receiving && !peers_[peer].has_ended;
      polls_.push_back({reads ? mesh_.data[peer].fd() : -1, POLLIN, 0});
    }
  }

  void ReadEarly(int peer_rank) {
    Peer& peer = peers_[peer_rank];
    const size_t before = peer.early.size();
    peer.early.resize(before + kEarlyBytes);
    const ssize_t n = recv(mesh_.data[peer_rank].fd(), peer.early.data() + before, kEarlyBytes, 0);
    peer.early.resize(before + static_cast<size_t>(std::max<ssize_t>(n, 0)));
    // Whoever needs it meets its end.
    peer.has_ended = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
  }

  // Waits until a transfer can go on, a peer has news, or Abort is called. Without waiting it only
  // takes news. An error when the group has ended.
  absl::Status WaitForNews(int timeout_ms) {
    polls_.assign(1, {wake_.fd(), POLLIN, 0});
    for (int peer = 0; peer < size(); ++peer) {  // poll() skips negative descriptors
      const bool listens = peer != rank() && !peers_[peer].has_left;
      polls_.push_back({listens ? mesh_.control[peer].fd() : -1, POLLIN, 0});
    }
    for (const Transfer& transfer : transfers_) {
      if (timeout_ms == 0 || transfer.is_complete()) continue;
      const short event = transfer.is_send ? POLLOUT : POLLIN;
      polls_.push_back({mesh_.data[transfer.peer].fd(), event, 0});
    }
    const size_t first_early = polls_.size();
    if (timeout_ms > 0) PollForEarly();
    poll(polls_.data(), polls_.size(), timeout_ms);
    if (aborted_.load()) {
      const std::lock_guard<std::mutex> lock(mutex_);
      return absl::AbortedError(abort_reason_);
    }
    for (int peer = 0; peer < size(); ++peer) {
      if (polls_[1 + peer].revents != 0) RETURN_IF_ERROR(ReadNews(peer));
    }
    for (size_t i = first_early; i < polls_.size(); ++i) {
      if (polls_[i].revents != 0) ReadEarly(static_cast<int>(i - first_early));
    }
    return absl::OkStatus();
  }

  absl::Status ReadNews(int peer_rank) {
    Peer& peer = peers_[peer_rank];
    const ssize_t n = recv(mesh_.control[peer_rank].fd(),
                           reinterpret_cast<char*>(&peer.news) + peer.news_bytes,
                           sizeof(News) - peer.news_bytes,
                           0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return absl::OkStatus();
    if (n <= 0) {
      return absl::UnavailableError(absl::StrCat(
          NameOf(peer_rank), " died: ", n == 0 ? "connection closed" : std::strerror(errno)));
    }
    peer.news_bytes += static_cast<size_t>(n);
    if (peer.news_bytes < sizeof(News)) return absl::OkStatus();
    peer.news.text[sizeof(News::text) - 1] = '\0';
    if (peer.news.kind == News::kAborted) return absl::AbortedError(peer.news.text);
    peer.has_left = true;
    return absl::OkStatus();
  }

  // Why the data connection to `peer` ended: its news may come a little later.
  absl::Status Lost(int peer, std::string_view reason) {
    const int64_t until_ns = NowNs() + kNewsNs;
    transfers_.clear();
    while (!peers_[peer].has_left && NowNs() < until_ns) {
      RETURN_IF_ERROR(WaitForNews(std::max(PollMs(until_ns), 1)));
    }
    if (peers_[peer].has_left) {
      return absl::UnavailableError(absl::StrCat(NameOf(peer), " left the group"));
    }
    return absl::UnavailableError(absl::StrCat(NameOf(peer), ": ", std::string(reason)));
  }

  absl::Status TimedOut() {
    std::string peers;
    int last = -1;
    for (const Transfer& transfer : transfers_) {
      if (transfer.is_complete() || transfer.peer == last) continue;
      last = transfer.peer;
      absl::StrAppend(&peers, peers.empty() ? "" : ", ", NameOf(last));
    }
    return absl::DeadlineExceededError(
        absl::StrCat("no word from ", peers, " for ", timeout_ms(), " ms"));
  }

  // Any thread. A peer that does not read its news has bigger worries.
  void TellPeers(News::Kind kind, std::string_view text) {
    News news;
    news.kind = kind;
    std::copy_n(text.begin(), std::min(text.size(), sizeof(News::text) - 1), news.text);
    for (const Socket& socket : mesh_.control) {
      if (socket.is_open()) (void)!send(socket.fd(), &news, sizeof(news), MSG_NOSIGNAL);
    }
  }

  std::string NameOf(int peer) const {
    return absl::StrCat("rank ", peer, " (", peers_[peer].host, ")");
  }

  const TcpMesh mesh_;
  const int64_t spin_ns_;
  std::vector<Peer> peers_;
  int64_t deadline_ns_ = kNoTimeout;  // of the current operation
  // Reused from one operation to the next.
  std::vector<Transfer> transfers_;
  std::vector<pollfd> polls_;
  std::vector<std::byte> scratch_;

  const Socket wake_;  // readable once aborted
  std::atomic<bool> aborted_ = false;
  std::mutex mutex_;
  std::string abort_reason_;  // guarded by mutex_
};

}  // namespace

std::unique_ptr<Communicator> MakeTcpCommunicator(TcpMesh mesh, int rank, int64_t spin_us) {
  return std::make_unique<TcpCommunicator>(std::move(mesh), rank, spin_us);
}

absl::StatusOr<std::unique_ptr<Communicator>> JoinTcpGroup(const TcpOptions& options,
                                                           int rank,
                                                           Socket listener) {
  absl::StatusOr<TcpMesh> mesh = JoinTcpMesh(options, rank, std::move(listener));
  if (!mesh.ok()) {
    return absl::Status(mesh.status().code(),
                        absl::StrCat("rank ", rank, ": join: ", mesh.status().message()));
  }
  return MakeTcpCommunicator(*std::move(mesh), rank, options.spin_us);
}

}  // namespace paceline::worker
