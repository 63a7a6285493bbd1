// Zeroed memory aligned to 64 bytes (2 MiB and on huge pages when large), for weights, activations
// and the KV cache. Owned by whoever holds it; not thread-safe beyond what plain memory is.
#ifndef PACELINE_KERNELS_CPU_ALIGNED_BUFFER_H_
#define PACELINE_KERNELS_CPU_ALIGNED_BUFFER_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"

namespace paceline::kernels {

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  ~AlignedBuffer();
  AlignedBuffer(AlignedBuffer&& other) noexcept;
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept;

  // Large buffers come zeroed from the kernel and are touched lazily. ResourceExhausted when there
  // is no address space or memory for them. bytes == 0 gives an empty buffer.
  static absl::StatusOr<AlignedBuffer> Allocate(size_t bytes);

  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  AlignedBuffer(uint8_t* data, size_t size, size_t mapped)
      : data_(data), size_(size), mapped_(mapped) {}

  uint8_t* data_ = nullptr;
  size_t size_ = 0;
  size_t mapped_ = 0;  // 0: from the heap
};

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_CPU_ALIGNED_BUFFER_H_
