// A batch as the device's kernels read it: laid out in pinned memory and copied to the device in
// one piece. Owned by the model; the thread whose device it is.
#ifndef PACELINE_WORKER_MODELS_DEVICE_STEP_INPUTS_H_
#define PACELINE_WORKER_MODELS_DEVICE_STEP_INPUTS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/attention/paged_decode_device.h"
#include "kernels/attention/paged_prefill_device.h"
#include "kernels/device/stream.h"
#include "kernels/kv_cache/layout.h"
#include "worker/device/device_memory.h"
#include "worker/layers/forward.h"

namespace paceline::worker {

// Decodes that one launch takes: rows and sequences [first, first + count) of the batch.
struct DecodePass {
  int32_t first = 0;
  int32_t count = 0;
  int32_t num_items = 0;
  const kernels::DecodeItem* items = nullptr;  // sequences count from `first`
  const int32_t* first_item = nullptr;
};

// Pointers are of device memory and valid until the next batch.
struct DeviceBatch {
  int32_t rows = 0;
  const int32_t* token_ids = nullptr;  // [rows]
  const int32_t* positions = nullptr;  // [rows]
  const int64_t* slots = nullptr;      // [rows]
  int32_t max_pages = 0;
  const int32_t* page_table = nullptr;  // [sequences, max_pages]
  const int32_t* lengths = nullptr;     // [decodes]
  std::vector<DecodePass> decodes;      // of the first sequences, those of one row
  int32_t first_prefill = 0;            // the sequence after them
  int32_t num_prefill_items = 0;
  const kernels::PrefillSequence* prefills = nullptr;   // of the other sequences
  const kernels::PrefillItem* prefill_items = nullptr;  // sequences count from first_prefill
};

class StepInputs {
 public:
  struct Options {
    int32_t num_heads = 0;
    int32_t num_kv_heads = 0;
    int32_t max_decode_items = 0;  // of one pass: what there is scratch memory for; at least what
                                   // the longest sequence has
  };
  static absl::StatusOr<std::unique_ptr<StepInputs>> Create(const Options& options,
                                                            int64_t& workspace_bytes);

  // Enqueues the copy; the batch may be read by what follows on the stream.
  absl::StatusOr<const DeviceBatch*> Upload(kernels::device::Stream stream,
                                            const ForwardInput& input);

 private:
  StepInputs(const Options& options, int64_t& workspace_bytes)
      : options_(options), workspace_bytes_(workspace_bytes) {}

  // A piece of the buffer; offsets are multiples of 16.
  template <typename T>
  void Add(const std::vector<T>& values, const T*& place);
  void PlanDecodes(const ForwardInput& input);
  void PlanPrefills(const ForwardInput& input);
  absl::Status Copy(kernels::device::Stream stream);

  const Options options_;
  int64_t& workspace_bytes_;
  DeviceBatch batch_;

  // Host memory, reused from step to step.
  struct Piece {
    const void* from;
    int64_t bytes;
    void* place;  // a pointer: where the piece is on the device
  };
  std::vector<Piece> pieces_;
  std::vector<int64_t> slots_;
  std::vector<int32_t> page_table_;
  std::vector<int32_t> lengths_;
  std::vector<kernels::DecodePlan> plans_;  // one a pass
  std::vector<kernels::PrefillSequence> prefills_;
  std::vector<kernels::PrefillItem> prefill_items_;

  PinnedBuffer pinned_;
  DeviceBuffer device_;
  std::unique_ptr<DeviceEvent> copied_;  // pinned_ may be written again
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_DEVICE_STEP_INPUTS_H_
