#include "worker/models/backend.h"
#include "worker/models/device/registry.h"

namespace paceline::worker {

const Backend* LinkedBackend() {
  static constexpr Backend kBackend = {.list = &kernels::device::ListDevices,
                                       .load = &LoadDeviceModel};
  return &kBackend;
}

}  // namespace paceline::worker
