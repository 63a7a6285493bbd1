// A batch as the device's kernels read it: laid out in pinned memory and copied to the device in
// one piece. Owned by the model; the thread whose device it is.
#ifndef PACELINE_WORKER_MODELS_DEVICE_STEP_INPUTS_H_
#define PACELINE_WORKER_MODELS_DEVICE_STEP_INPUTS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/attention/paged_decode_device.h"
#include "kernels/attention/paged_prefill_device.h"
#include "kernels/device/stream.h"
#include "kernels/kv_cache/layout.h"
#include "worker/layers/forward.h"
#include "worker/models/device/staging.h"
#include "worker/models/device/step_graphs.h"

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
  // Of a batch of decodes that was filled up with rows and items that are nothing: batches of the
  // same shape are the same to all kernels but for what is in memory.
  std::optional<StepShape> shape;
  int32_t rows = 0;
  int32_t* token_ids = nullptr;         // [rows]
  const int32_t* positions = nullptr;   // [rows]
  const int64_t* slots = nullptr;       // [rows]
  const int32_t* token_rows = nullptr;  // as ForwardInput has them
  int32_t num_token_rows = 0;
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
    int32_t prefill_vectors = kernels::kPrefillVectors;  // of an item
    int32_t all_kv_heads = 0;      // of all ranks that share a layer, which must fill up alike
    int32_t max_decode_items = 0;  // of one pass: what there is scratch memory for; at least what
                                   // the longest sequence has
    int32_t max_filled_rows = 0;   // up to which batches of decodes are filled up; 0: none is
  };
  static absl::StatusOr<std::unique_ptr<StepInputs>> Create(const Options& options,
                                                            int64_t& workspace_bytes);

  // Enqueues the copy; the batch may be read by what follows on the stream.
  absl::StatusOr<const DeviceBatch*> Upload(kernels::device::Stream stream,
                                            const ForwardInput& input);

 private:
  explicit StepInputs(const Options& options) : options_(options) {}

  bool FitsAShape(const ForwardInput& input) const;
  // Items of decode attention over so many positions.
  int32_t NumItems(int32_t length) const;
  void PlanDecodes(const ForwardInput& input);
  void FillUp();
  void PlanPrefills(const ForwardInput& input);

  const Options options_;
  DeviceBatch batch_;

  // Host memory, reused from step to step.
  std::vector<int32_t> token_ids_;
  std::vector<int32_t> positions_;
  std::vector<int64_t> slots_;
  std::vector<int32_t> page_table_;
  std::vector<int32_t> lengths_;
  std::vector<kernels::DecodePlan> plans_;  // one a pass
  std::vector<kernels::PrefillSequence> prefills_;
  std::vector<kernels::PrefillItem> prefill_items_;

  std::unique_ptr<Staging> staging_;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_DEVICE_STEP_INPUTS_H_
