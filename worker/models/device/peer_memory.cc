#include "worker/models/device/peer_memory.h"

#include <atomic>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/support/status_macros.h"

namespace paceline::worker {

namespace device = kernels::device;

namespace {

// A rank's part: what others send, and what they and this rank count.
int64_t InboxBytes(const kernels::DevicePeers& peers) {
  return 2 * peers.num_ranks * peers.piece_bytes;
}
int64_t ArrivedBytes(int size) {
  return int64_t{size} * kernels::kMaxPeerBlocks * static_cast<int64_t>(sizeof(uint64_t));
}
constexpr int64_t kOwnCountBytes = 2 * sizeof(uint64_t);

}  // namespace

absl::StatusOr<std::unique_ptr<PeerMemory>> PeerMemory::Create(device::Stream stream,
                                                               int rank,
                                                               int size,
                                                               int64_t piece_bytes) {
  auto memory = std::unique_ptr<PeerMemory>(new PeerMemory(stream));
  ASSIGN_OR_RETURN(memory->stop_, PinnedBuffer::Allocate(sizeof(uint32_t)));
  *memory->stop_.as<uint32_t>() = 0;
  kernels::DevicePeers& peers = memory->peers_;
  peers.piece_bytes = (piece_bytes + 15) / 16 * 16;
  peers.num_ranks = size;
  peers.rank = rank;
  peers.stop = memory->stop_.as<uint32_t>();
  const int64_t counts = ArrivedBytes(size) + kOwnCountBytes;
  ASSIGN_OR_RETURN(memory->own_, device::AllocateShared(InboxBytes(peers) + counts));
  memory->SetPlace(rank, memory->own_.memory);
  char* const after = reinterpret_cast<char*>(peers.arrived[rank]) + ArrivedBytes(size);
  peers.count = reinterpret_cast<uint64_t*>(after);
  peers.blocks_done = reinterpret_cast<uint32_t*>(after + sizeof(uint64_t));
  const std::vector<char> zeros(counts, 0);
  RETURN_IF_ERROR(device::Copy(stream, peers.arrived[rank], zeros.data(), counts));
  RETURN_IF_ERROR(device::Synchronize(stream));
  return memory;
}

void PeerMemory::SetPlace(int rank, void* memory) {
  peers_.inbox[rank] = static_cast<char*>(memory);
  peers_.arrived[rank] = reinterpret_cast<uint64_t*>(peers_.inbox[rank] + InboxBytes(peers_));
}

absl::Status PeerMemory::Connect(absl::Span<const device::SharedHandle> handles) {
  for (int rank = 0; rank < peers_.num_ranks; ++rank) {
    if (rank == peers_.rank) continue;
    const absl::StatusOr<void*> memory = device::Map(handles[rank]);
    if (!memory.ok()) {
      return absl::Status(
          memory.status().code(),
          absl::StrCat("no memory of rank ", rank, ": ", memory.status().message()));
    }
    mapped_.push_back(*memory);
    SetPlace(rank, *memory);
  }
  return absl::OkStatus();
}

void PeerMemory::Stop() {
  std::atomic_ref(*stop_.as<uint32_t>()).store(1, std::memory_order_relaxed);
}

PeerMemory::~PeerMemory() {
  if (stop_.bytes() > 0) Stop();
  device::Synchronize(stream_).IgnoreError();
  for (void* const memory : mapped_) device::Unmap(memory);
  device::Free(own_.memory);
}

}  // namespace paceline::worker
