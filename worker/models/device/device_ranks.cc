#include "worker/models/device/device_ranks.h"

#include <algorithm>
#include <fstream>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "kernels/device/runtime.h"
#include "proto/support/log.h"
#include "proto/support/status_macros.h"

namespace paceline::worker {
namespace {

namespace device = kernels::device;

// What a rank tells all others.
struct Offer {
  uint64_t host = 0;     // names it, as `device` does among those of all hosts
  uint64_t device = 0;   //
  int32_t has_nccl = 0;  // the library is there
  int32_t shares = 0;    // it may have a device with others
  NcclUniqueId tensor;   // of the group of its stage, if it is the first there
  NcclUniqueId after;    // of its group with the stage after, if there is one
};

// And then of memory for its peers.
struct MemoryOffer {
  device::SharedHandle handle;
  char why_not[256] = {};  // empty: there is some
};

template <size_t kSize>
void CopyText(absl::string_view text, char (&to)[kSize]) {
  absl::SNPrintF(to, kSize, "%s", text);
}

// Containers of one host have different names, but the kernel of one.
std::string HostName() {
  std::string id;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), id);
  return id;
}

absl::StatusOr<uint64_t> NameOfDevice(int32_t index) {
  ASSIGN_OR_RETURN(const std::vector<device::DeviceInfo> devices, device::ListDevices());
  for (const device::DeviceInfo& info : devices) {
    if (info.index == index) {
      const std::string place =
          info.pci_address.empty() ? absl::StrCat(info.index) : info.pci_address;
      return std::hash<std::string>()(absl::StrCat(HostName(), " ", place));
    }
  }
  return absl::InternalError(absl::StrCat("there is no device ", index));
}

template <typename T>
absl::Status Exchange(Communicator& replica, std::vector<T>& offers) {
  std::vector<int64_t> ends;
  for (size_t i = 1; i <= offers.size(); ++i) ends.push_back(static_cast<int64_t>(i * sizeof(T)));
  return replica.AllGatherColumns(offers.data(), 1, ends.back(), ends);
}

// Empty: NCCL it is.
std::string WhyNot(const std::vector<Offer>& offers) {
  for (size_t rank = 0; rank < offers.size(); ++rank) {
    if (offers[rank].has_nccl == 0) return absl::StrCat("rank ", rank, " has no NCCL");
    for (size_t before = 0; before < rank; ++before) {
      if (offers[before].device == offers[rank].device && offers[rank].shares == 0) {
        return absl::StrCat("ranks ", before, " and ", rank, " have one device between them");
      }
    }
  }
  return "";
}

// The same for memory between the ranks of a stage.
std::string WhyNoPeers(const std::vector<Offer>& offers, int32_t tensor_size) {
  if (tensor_size > kernels::kMaxPeers) {
    return absl::StrCat("more than ", kernels::kMaxPeers, " ranks to a layer");
  }
  for (size_t rank = 0; rank < offers.size(); ++rank) {
    const size_t first = rank / tensor_size * tensor_size;
    for (size_t before = first; before < rank; ++before) {
      const bool same_host = offers[before].host == offers[rank].host;
      if (same_host && offers[before].device != offers[rank].device) continue;
      return absl::StrCat("ranks ",
                          before,
                          " and ",
                          rank,
                          same_host ? " have one device between them" : " are on two hosts");
    }
  }
  return "";
}

std::string FirstTrouble(const std::vector<MemoryOffer>& offers) {
  for (size_t rank = 0; rank < offers.size(); ++rank) {
    if (offers[rank].why_not[0] != 0)
      return absl::StrCat("rank ", rank, ": ", offers[rank].why_not);
  }
  return "";
}

// Null on all ranks when one of them lacks something, which `why_not` says.
absl::StatusOr<std::unique_ptr<PeerMemory>> ShareMemory(device::Stream stream,
                                                        int64_t piece_bytes,
                                                        const RankPlace& place,
                                                        Communicator& replica,
                                                        std::string& why_not) {
  std::vector<MemoryOffer> offers(replica.size());
  MemoryOffer& own = offers[replica.rank()];
  auto memory = PeerMemory::Create(stream, place.tensor_rank, place.tensor_size, piece_bytes);
  if (memory.ok()) {
    own.handle = (*memory)->handle();
  } else {
    CopyText(memory.status().message(), own.why_not);
  }
  RETURN_IF_ERROR(Exchange(replica, offers));
  why_not = FirstTrouble(offers);
  if (!why_not.empty()) return nullptr;
  std::vector<device::SharedHandle> handles;
  for (int rank = 0; rank < place.tensor_size; ++rank) {
    handles.push_back(offers[replica.rank() - place.tensor_rank + rank].handle);
  }
  CopyText((*memory)->Connect(handles).message(), own.why_not);
  RETURN_IF_ERROR(Exchange(replica, offers));
  why_not = FirstTrouble(offers);
  if (!why_not.empty()) return nullptr;
  return std::move(*memory);
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceRanks>> DeviceRanks::Form(device::Stream stream,
                                                               const DevicePlace& place_of_device,
                                                               const RankPlace& place,
                                                               Communicator& replica) {
  std::vector<Offer> offers(replica.size());
  Offer& own = offers[replica.rank()];
  own.host = std::hash<std::string>()(HostName());
  ASSIGN_OR_RETURN(own.device, NameOfDevice(place_of_device.index));
  own.shares = place_of_device.nccl_shares_devices ? 1 : 0;
  auto library = NcclLibrary::Load(place_of_device.nccl_library);
  std::unique_ptr<DeviceRanks> ranks;
  if (library.ok()) {
    ranks.reset(new DeviceRanks(*library, replica));
    own.has_nccl = 1;
    if (place.tensor_rank == 0) {
      ASSIGN_OR_RETURN(own.tensor, ranks->session_.MakeId());
    }
    if (!place.is_last_stage()) {
      ASSIGN_OR_RETURN(own.after, ranks->session_.MakeId());
    }
  }
  RETURN_IF_ERROR(Exchange(replica, offers));
  const std::string why_not = WhyNot(offers);
  if (!why_not.empty()) {
    if (!library.ok()) spdlog::info("{}", std::string(library.status().message()));
    if (replica.rank() == 0) {
      spdlog::info("ranks exchange through their hosts' memory: {}", why_not);
    }
    return nullptr;
  }
  if (place.tensor_size > 1) {
    const Offer& first = offers[replica.rank() - place.tensor_rank];
    ASSIGN_OR_RETURN(ranks->tensor_,
                     ranks->session_.Join(first.tensor, place.tensor_rank, place.tensor_size));
  }
  // From the first stage on, each waits for the one before.
  if (!place.is_first_stage()) {
    const Offer& before = offers[replica.rank() - place.tensor_size];
    ASSIGN_OR_RETURN(ranks->before_, ranks->session_.Join(before.after, 1, 2));
  }
  if (!place.is_last_stage()) {
    ASSIGN_OR_RETURN(ranks->after_, ranks->session_.Join(own.after, 0, 2));
  }
  ASSIGN_OR_RETURN(ranks->awaited_, DeviceEvent::Create());
  ASSIGN_OR_RETURN(ranks->marked_, DeviceEvent::Create());
  std::string why_no_peers;
  if (place.tensor_size > 1 && place_of_device.peer_bytes > 0) {
    why_no_peers = WhyNoPeers(offers, place.tensor_size);
    if (why_no_peers.empty()) {
      ASSIGN_OR_RETURN(
          ranks->peers_,
          ShareMemory(stream, place_of_device.peer_bytes, place, replica, why_no_peers));
    }
  }
  if (replica.rank() != 0) return ranks;
  spdlog::info("ranks exchange over NCCL {}{}",
               (*library)->version,
               ranks->peers_ == nullptr ? "" : ", few rows over memory that their devices share");
  if (!why_no_peers.empty()) spdlog::info("devices of ranks share no memory: {}", why_no_peers);
  return ranks;
}

absl::Status DeviceRanks::Await(device::Stream stream) {
  RETURN_IF_ERROR(awaited_->Record(stream));
  return AwaitEvent(*awaited_);
}

absl::Status DeviceRanks::AwaitMark() { return AwaitEvent(*marked_); }

absl::Status DeviceRanks::AwaitEvent(const DeviceEvent& event) {
  absl::Status status = session_.Await("step", [&event] { return event.IsDone(); });
  if (!status.ok() && peers_ != nullptr) peers_->Stop();
  return status;
}

}  // namespace paceline::worker
