#include "worker/models/device/device_ranks.h"

#include <algorithm>
#include <fstream>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/device/runtime.h"
#include "proto/support/log.h"
#include "proto/support/status_macros.h"

namespace paceline::worker {
namespace {

namespace device = kernels::device;

// What a rank tells all others.
struct Offer {
  uint64_t device = 0;   // names it among those of all hosts
  int32_t has_nccl = 0;  // the library is there
  int32_t shares = 0;    // it may have a device with others
  NcclUniqueId tensor;   // of the group of its stage, if it is the first there
  NcclUniqueId after;    // of its group with the stage after, if there is one
};

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

absl::Status Exchange(Communicator& replica, std::vector<Offer>& offers) {
  std::vector<int64_t> ends;
  for (size_t i = 1; i <= offers.size(); ++i) {
    ends.push_back(static_cast<int64_t>(i * sizeof(Offer)));
  }
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

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceRanks>> DeviceRanks::Form(const DevicePlace& place_of_device,
                                                               const RankPlace& place,
                                                               Communicator& replica) {
  std::vector<Offer> offers(replica.size());
  Offer& own = offers[replica.rank()];
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
  if (replica.rank() == 0) spdlog::info("ranks exchange over NCCL {}", (*library)->version);
  return ranks;
}

absl::Status DeviceRanks::Await(device::Stream stream) {
  RETURN_IF_ERROR(awaited_->Record(stream));
  return session_.Await("step", [this] { return awaited_->IsDone(); });
}

absl::Status DeviceRanks::AwaitMark() {
  return session_.Await("step", [this] { return marked_->IsDone(); });
}

}  // namespace paceline::worker
