// Row gathers on the device: token embeddings out of a table as a GGUF file stores it, and rows out
// of a float matrix (a kF32 table). Stateless; enqueues on the stream; pointers are of device
// memory.
#ifndef PACELINE_KERNELS_EMBEDDING_EMBED_DEVICE_H_
#define PACELINE_KERNELS_EMBEDDING_EMBED_DEVICE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "kernels/gemm/gemm_kernels.h"

namespace paceline::kernels {

struct DeviceEmbedArgs {
  const void* table;  // [num_ids, cols] of `format`, row by row, at an address divisible by 4
  WeightFormat format;
  const int32_t* ids;  // [rows]
  float* out;          // [rows, cols]
  int32_t rows;
  int32_t cols;      // a multiple of 32 for a quantised format
  int32_t first_id;  // of the table's first row
  int32_t num_ids;
};

// out[i] = row ids[i] - first_id of the table, with the CPU's bits, and zeros for an id outside it:
// a rank that has a part of the vocabulary leaves the rest to the others. InvalidArgument for sizes
// that do not fit; Internal when the launch fails.
absl::Status DeviceEmbed(device::Stream stream, const DeviceEmbedArgs& args);

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_EMBEDDING_EMBED_DEVICE_H_
