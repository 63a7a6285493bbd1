// What exchanges between ranks take, in microseconds: rows of 4,096 floats, over memory that the
// devices share, as launches and in a graph, and over NCCL. One JSON object on standard output. A
// rank is a thread; with one GPU two ranks have it in common, which shows what a launch and a
// signal take, but no link, and NCCL is left out. --tiny: that the program works; its times mean
// nothing.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "proto/support/status_macros.h"
#include "worker/comm/nccl_communicator.h"
#include "worker/comm/shm_communicator.h"
#include "worker/models/device/exchange.h"
#include "worker/models/device/peer_memory.h"

namespace paceline::worker {
namespace {

namespace device = kernels::device;

constexpr int32_t kMostRows = 64;
constexpr int64_t kCols = 4096;
constexpr int kInGraph = 16;

[[noreturn]] void Die(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", std::string(status.ToString()).c_str());
  std::exit(1);
}
void Check(const absl::Status& status) {
  if (!status.ok()) Die(status);
}
template <typename T>
T Value(absl::StatusOr<T> value) {
  if (!value.ok()) Die(value.status());
  return *std::move(value);
}

// What all ranks have.
struct Setup {
  int size = 0;
  int num_devices = 0;
  bool tiny = false;
  std::shared_ptr<ShmGroup> group;
  std::shared_ptr<const NcclLibrary> nccl;  // null: not there, or too few devices
  std::vector<device::SharedHandle> handles;
  NcclUniqueId id;
};

class Rank {
 public:
  Rank(Setup& setup, int rank) : setup_(setup), shares_(Shares::Even(kCols, 16, setup.size, rank)) {
    Check(device::UseDevice(rank % setup.num_devices));
    control_ = Value(JoinShmGroup(setup.group, rank, {}));
    stream_ = Value(DeviceStream::Create());
    peers_ = Value(PeerMemory::Create(
        stream_->get(), rank, setup.size, kMostRows * kCols * int64_t{sizeof(float)}));
    setup.handles[rank] = peers_->handle();
    if (setup.nccl != nullptr) {
      session_ = std::make_unique<NcclSession>(setup.nccl, *control_);
      if (rank == 0) setup.id = Value(session_->MakeId());
    }
    Check(control_->Barrier());
    Check(peers_->Connect(setup.handles));
    if (session_ != nullptr) nccl_ = Value(session_->Join(setup.id, rank, setup.size));
    const int64_t bytes = kMostRows * kCols * int64_t{sizeof(float)};
    x_ = Value(DeviceBuffer::Allocate(bytes, used_));
    out_ = Value(DeviceBuffer::Allocate(bytes / 2, used_));
    weight_ = Value(DeviceBuffer::Allocate(kCols * int64_t{sizeof(float)}, used_));
    const std::vector<char> zeros(bytes, 0);
    Check(device::Copy(stream_->get(), x_.data(), zeros.data(), bytes));
    Check(device::Copy(stream_->get(), weight_.data(), zeros.data(), weight_.bytes()));
    Check(device::Synchronize(stream_->get()));
  }

  // Rank 0's.
  nlohmann::ordered_json Run() {
    nlohmann::ordered_json results = nlohmann::ordered_json::array();
    const auto over_peers = MakeExchange(peers_.get());
    const auto over_nccl = nccl_ == nullptr ? nullptr : MakeExchange(nullptr);
    for (int32_t rows = 1; rows <= (setup_.tiny ? 2 : kMostRows); rows *= 2) {
      for (const bool sums : {false, true}) {
        nlohmann::ordered_json result = {{"name", sums ? "sum and norm" : "gather and norm"},
                                         {"rows", rows}};
        const auto exchange = [&](Exchange& over) {
          return sums ? over.Sum(*control_, x_.as<float>(), rows, kCols, norm())
                      : over.GatherColumnsInPlace(*control_, shares_, rows, x_.as<float>(), norm());
        };
        result["us"] = Measure(1, [&] { return exchange(*over_peers); });
        Check(device::BeginCapture(stream_->get()));
        for (int i = 0; i < kInGraph; ++i) Check(exchange(*over_peers));
        device::Graph const graph = Value(device::EndCapture(stream_->get()));
        result["us_in_graph"] =
            Measure(kInGraph, [&] { return device::LaunchGraph(stream_->get(), graph); });
        device::DestroyGraph(graph);
        if (over_nccl != nullptr) {
          result["us_nccl"] = Measure(1, [&] { return exchange(*over_nccl); });
        }
        results.push_back(result);
      }
    }
    Check(control_->Barrier());
    return results;
  }

 private:
  std::unique_ptr<Exchange> MakeExchange(PeerMemory* peers) {
    return Value(Exchange::Create(
        stream_->get(),
        {.matrix_bytes = x_.bytes(), .piece_bytes = x_.bytes(), .nccl = nccl_, .peers = peers},
        used_));
  }
  kernels::DevicePeerNorm norm() const {
    return {.weight = weight_.as<const float>(), .out = out_.data(), .eps = 1e-5F};
  }
  // Microseconds of one of the `count` exchanges that enqueue() brings; the best of three rounds.
  double Measure(int count, const std::function<absl::Status()>& enqueue) {
    const int times = setup_.tiny ? 1 : 640 / count;
    double best = 1e300;
    for (int round = 0; round < 4; ++round) {  // the first is for warmth
      Check(control_->Barrier());
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < times; ++i) Check(enqueue());
      Check(device::Synchronize(stream_->get()));
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      if (round > 0) best = std::min(best, took.count() * 1e6 / (times * count));
    }
    return best;
  }

  Setup& setup_;
  const Shares shares_;
  int64_t used_ = 0;
  std::unique_ptr<Communicator> control_;
  std::unique_ptr<DeviceStream> stream_;
  std::unique_ptr<PeerMemory> peers_;
  std::unique_ptr<NcclSession> session_;
  NcclCommunicator* nccl_ = nullptr;
  DeviceBuffer x_;
  DeviceBuffer out_;
  DeviceBuffer weight_;
};

int Main(bool tiny) {
  Setup setup;
  setup.tiny = tiny;
  setup.num_devices = static_cast<int>(Value(device::ListDevices()).size());
  setup.size = std::min<int>(std::max(2, setup.num_devices), kernels::kMaxPeers);
  setup.num_devices = std::min(setup.num_devices, setup.size);
  setup.group = Value(ShmGroup::Create({.size = setup.size}));
  setup.handles.resize(setup.size);
  if (setup.num_devices > 1) {
    auto library = NcclLibrary::Load("libnccl.so.2");
    if (library.ok()) setup.nccl = *std::move(library);
  }
  nlohmann::ordered_json results;
  std::vector<std::thread> threads;
  for (int number = 0; number < setup.size; ++number) {
    threads.emplace_back([&setup, &results, number] {
      nlohmann::ordered_json own = Rank(setup, number).Run();
      if (number == 0) results = std::move(own);
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::cout << nlohmann::ordered_json{{"ranks", setup.size},
                                      {"gpus", setup.num_devices},
                                      {"nccl", setup.nccl == nullptr ? "" : setup.nccl->version},
                                      {"exchanges", results}}
                   .dump(2)
            << "\n";
  return 0;
}

}  // namespace
}  // namespace paceline::worker

int main(int argc, char** argv) {
  return paceline::worker::Main(argc > 1 && std::strcmp(argv[1], "--tiny") == 0);
}
