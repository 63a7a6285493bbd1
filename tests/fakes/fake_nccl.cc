// A library with the part of NCCL's interface that is used, over memory that the ranks share:
// threads of one process, or its forked children. "Streams" are those of the emulation, where work
// is done at once, so an operation is in progress until its data has moved. As in NCCL, that
// happens on a thread of its own; nobody notices when a peer ends; and additions have an order of
// their own.
//
// The environment makes it worse: FAKE_NCCL_VERSION is its version (as NCCL writes it),
// FAKE_NCCL_ASYNC_ERROR the state of all communicators from now on.
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

namespace {

constexpr int kMaxRanks = 8;
constexpr uint64_t kRingBytes = 64 << 10;

enum Result { kSuccess = 0, kSystemError = 2, kInvalidArgument = 4, kInvalidUsage = 5, kBusy = 7 };

struct UniqueId {
  char path[128];
};

struct Config {
  size_t size;
  unsigned int magic;
  unsigned int version;
  int blocking;
};

// Bytes on their way from one rank to another.
struct Ring {
  std::atomic<uint64_t> written;
  std::atomic<uint64_t> read;
  char bytes[kRingBytes];
};

struct Shared {
  std::atomic<int> joined;
  Ring rings[kMaxRanks][kMaxRanks];  // [from][to]
};

struct Transfer {
  Ring* ring;
  bool is_send;
  char* data;
  uint64_t left;

  bool Move() {
    const uint64_t written = ring->written.load(std::memory_order_acquire);
    const uint64_t read = ring->read.load(std::memory_order_acquire);
    const uint64_t at = (is_send ? written : read) % kRingBytes;
    const uint64_t there = is_send ? kRingBytes - (written - read) : written - read;
    const uint64_t n = std::min({left, there, kRingBytes - at});
    if (n == 0) return false;
    if (is_send) {
      std::memcpy(ring->bytes + at, data, n);
      ring->written.store(written + n, std::memory_order_release);
    } else {
      std::memcpy(data, ring->bytes + at, n);
      ring->read.store(read + n, std::memory_order_release);
    }
    data += n;
    left -= n;
    return true;
  }
};

struct Comm {
  int rank;
  int size;
  Shared* shared;
  std::atomic<int> state{kSuccess};
  std::atomic<bool> aborted{false};
  std::thread thread;

  Transfer To(int peer, const void* data, uint64_t bytes) const {
    return {&shared->rings[rank][peer], true, static_cast<char*>(const_cast<void*>(data)), bytes};
  }
  Transfer From(int peer, void* data, uint64_t bytes) const {
    return {&shared->rings[peer][rank], false, static_cast<char*>(data), bytes};
  }

  // Until all are done; false: aborted.
  bool Run(std::vector<Transfer> transfers) const {
    for (;;) {
      bool all_done = true;
      for (Transfer& transfer : transfers) {
        while (transfer.left > 0 && transfer.Move()) {
        }
        all_done = all_done && transfer.left == 0;
      }
      if (all_done) return true;
      if (aborted.load()) return false;
      sched_yield();
    }
  }

  // Every rank's `own` to pieces[rank].
  bool Gather(const char* own, char* pieces, uint64_t bytes) const {
    std::vector<Transfer> transfers;
    for (int peer = 0; peer < size; ++peer) {
      if (peer == rank) continue;
      transfers.push_back(To(peer, own, bytes));
      transfers.push_back(From(peer, pieces + peer * bytes, bytes));
    }
    if (bytes > 0 && own != pieces + rank * bytes) std::memcpy(pieces + rank * bytes, own, bytes);
    return Run(std::move(transfers));
  }

  // `work` says whether it was done.
  int Start(std::function<bool()> work) {
    if (state.load() == kBusy) return kInvalidUsage;
    if (thread.joinable()) thread.join();
    state.store(kBusy);
    thread = std::thread([this, work = std::move(work)] {
      if (work()) state.store(kSuccess);
    });
    return kBusy;
  }
};

}  // namespace

extern "C" {

int ncclGetVersion(int* version) {
  const char* const text = std::getenv("FAKE_NCCL_VERSION");
  *version = text == nullptr ? 22809 : std::atoi(text);
  return kSuccess;
}

// The memory is there as long as this process, or another one that has joined.
int ncclGetUniqueId(UniqueId* id) {
  const int fd = memfd_create("fake_nccl", 0);
  if (fd < 0 || ftruncate(fd, sizeof(Shared)) != 0) return kSystemError;
  std::snprintf(id->path, sizeof(id->path), "/proc/%d/fd/%d", getpid(), fd);
  return kSuccess;
}

int ncclCommInitRankConfig(void** out, int size, UniqueId id, int rank, Config* config) {
  const bool is_known = config->size == sizeof(Config) && config->magic == 0xcafebeef &&
                        config->version == 21400 && config->blocking == 0;
  if (!is_known || size > kMaxRanks || rank < 0 || rank >= size) return kInvalidArgument;
  const int fd = open(id.path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return kSystemError;
  void* const memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (memory == MAP_FAILED) return kSystemError;
  auto* const comm = new Comm{rank, size, static_cast<Shared*>(memory)};
  *out = comm;
  return comm->Start([comm] {
    comm->shared->joined.fetch_add(1);
    while (comm->shared->joined.load() < comm->size) {
      if (comm->aborted.load()) return false;
      sched_yield();
    }
    return true;
  });
}

int ncclCommAbort(Comm* comm) {
  comm->aborted.store(true);
  if (comm->thread.joinable()) comm->thread.join();
  munmap(comm->shared, sizeof(Shared));
  delete comm;
  return kSuccess;
}

int ncclCommGetAsyncError(Comm* comm, int* state) {
  const char* const error = std::getenv("FAKE_NCCL_ASYNC_ERROR");
  *state = error == nullptr ? comm->state.load() : std::atoi(error);
  return kSuccess;
}

int ncclAllGather(const char* own, char* all, size_t count, int type, Comm* comm, void*) {
  if (type != 0) return kInvalidArgument;
  return comm->Start([=] { return comm->Gather(own, all, count); });
}

// Whole numbers, from the last rank to the first.
int ncclAllReduce(
    const int32_t* in, int32_t* out, size_t count, int type, int op, Comm* comm, void*) {
  if (type != 2 || op != 0) return kInvalidArgument;
  return comm->Start([=] {
    std::vector<uint32_t> parts(comm->size * count);
    if (!comm->Gather(reinterpret_cast<const char*>(in),
                      reinterpret_cast<char*>(parts.data()),
                      count * sizeof(int32_t))) {
      return false;
    }
    for (size_t i = 0; i < count; ++i) {
      uint32_t sum = 0;
      for (int rank = comm->size - 1; rank >= 0; --rank) sum += parts[rank * count + i];
      out[i] = static_cast<int32_t>(sum);
    }
    return true;
  });
}

int ncclSend(const void* data, size_t count, int type, int to, Comm* comm, void*) {
  if (type != 0 || to < 0 || to >= comm->size || to == comm->rank) return kInvalidArgument;
  return comm->Start([=] { return comm->Run({comm->To(to, data, count)}); });
}

int ncclRecv(void* data, size_t count, int type, int from, Comm* comm, void*) {
  if (type != 0 || from < 0 || from >= comm->size || from == comm->rank) return kInvalidArgument;
  return comm->Start([=] { return comm->Run({comm->From(from, data, count)}); });
}

const char* ncclGetErrorString(int result) {
  return result == 6 ? "remote process exited or there was a network error" : "another error";
}

const char* ncclGetLastError(Comm*) { return "said by the fake"; }

}  // extern "C"
