// Latency of the communicators between two processes: one f32 row of SmolLM2 (2.3 KB) and 64 KB.
// Prints microseconds per operation, best of five runs; for messages half a round trip. Both ranks
// must run, on processors 0 and 1. Good: about 1 µs for 2.3 KB in shared memory.
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <vector>

#include "worker/comm/shm_communicator.h"
#include "worker/comm/tcp_communicator.h"

namespace paceline::worker {
namespace {

constexpr int kRuns = 5;

void Must(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "comm_bench: %s\n", std::string(status.message()).c_str());
  _exit(1);
}

double BestMicroseconds(int count, const std::function<absl::Status()>& operation) {
  double best = 1e30;
  for (int run = 0; run < kRuns; ++run) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < count; ++i) Must(operation());
    const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - start;
    best = std::min(best, time.count() / count);
  }
  return best;
}

void Measure(Communicator& comm, const char* name, int64_t bytes, int count) {
  const int64_t floats = bytes / 4;
  std::vector<float> data(floats, 1.0f);
  const auto span = absl::MakeSpan(reinterpret_cast<std::byte*>(data.data()), bytes);
  const double reduce =
      BestMicroseconds(count, [&] { return comm.AllReduceSum(absl::MakeSpan(data)); });
  const std::vector<int64_t> ends = {bytes / 2, bytes};
  const double gather =
      BestMicroseconds(count, [&] { return comm.AllGatherColumns(data.data(), 1, bytes, ends); });
  const double message = BestMicroseconds(count, [&] {
    const absl::Status first = comm.rank() == 0 ? comm.Send(span, 1) : comm.Recv(span, 0);
    if (!first.ok()) return first;
    return comm.rank() == 0 ? comm.Recv(span, 1) : comm.Send(span, 0);
  });
  if (comm.rank() != 0) return;
  std::printf("%-5s %8lld bytes   all_reduce %8.2f   all_gather %8.2f   send %8.2f us\n",
              name,
              static_cast<long long>(bytes),
              reduce,
              gather,
              message / 2);
  std::fflush(stdout);
}

// What two ranks exchange in a layer of SmolLM2 (hidden 576, inner 1,536 as int8 blocks of 32): the
// columns of exact tensor parallelism, beside the two sums of the usual kind (docs/decisions/0008).
void MeasureLayer(Communicator& comm, const char* name, int64_t rows, int count) {
  constexpr int64_t kHidden = 576 * sizeof(float);
  constexpr int64_t kInner = 1536 / 32 * 40;
  std::vector<float> data(rows * 576, 1.0f);
  std::vector<std::byte> inner(rows * kInner);
  const std::vector<int64_t> hidden_ends = {kHidden / 2, kHidden};
  const std::vector<int64_t> inner_ends = {kInner / 2, kInner};
  const auto gather = [&](void* matrix, int64_t stride, const std::vector<int64_t>& ends) {
    return comm.AllGatherColumns(matrix, rows, stride, ends);
  };
  const double exact = BestMicroseconds(count, [&] {
    for (int i = 0; i < 3; ++i) Must(gather(data.data(), kHidden, hidden_ends));
    return gather(inner.data(), kInner, inner_ends);
  });
  const double fast = BestMicroseconds(count, [&] {
    Must(comm.AllReduceSum(absl::MakeSpan(data)));
    return comm.AllReduceSum(absl::MakeSpan(data));
  });
  if (comm.rank() != 0) return;
  std::printf("%-5s a layer, %4lld rows   4 gathers %8.2f   2 all_reduces %8.2f us\n",
              name,
              static_cast<long long>(rows),
              exact,
              fast);
  std::fflush(stdout);
}

using CommunicatorOr = absl::StatusOr<std::unique_ptr<Communicator>>;

void MeasureBackend(const char* name, int count, const std::function<CommunicatorOr(int)>& join) {
  const pid_t child = fork();
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(child == 0 ? 1 : 0, &one);
  sched_setaffinity(0, sizeof(one), &one);
  {
    CommunicatorOr comm = join(child == 0 ? 1 : 0);
    Must(comm.status());
    (*comm)->set_timeout_ms(10'000);
    Measure(**comm, name, 2304, count);
    Measure(**comm, name, 65536, count / 10);
    MeasureLayer(**comm, name, 1, count / 4);
    MeasureLayer(**comm, name, 16, count / 20);
    MeasureLayer(**comm, name, 128, count / 100);
  }
  if (child == 0) _exit(0);
  waitpid(child, nullptr, 0);
}

}  // namespace
}  // namespace paceline::worker

int main() {
  using namespace paceline::worker;
  const auto group = ShmGroup::Create({.size = 2});
  Must(group.status());
  MeasureBackend("shm", 20'000, [&](int rank) { return JoinShmGroup(*group, rank, {}); });
  const auto listener = ListenTcp("127.0.0.1", 0);
  Must(listener.status());
  const TcpOptions options = {
      .size = 2, .master_addr = "127.0.0.1", .master_port = LocalEndpoint(*listener).port};
  MeasureBackend("tcp", 2'000, [&](int rank) {
    return JoinTcpGroup(options, rank, Socket(rank == 0 ? dup(listener->fd()) : -1));
  });
  return 0;
}
