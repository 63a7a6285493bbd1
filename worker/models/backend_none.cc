#include "worker/models/backend.h"

namespace paceline::worker {

const Backend* LinkedBackend() { return nullptr; }

}  // namespace paceline::worker
