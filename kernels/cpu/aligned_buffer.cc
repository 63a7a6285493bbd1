#include "kernels/cpu/aligned_buffer.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace paceline::kernels {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kAlignment = 64;

size_t RoundUp(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

absl::StatusOr<AlignedBuffer> AlignedBuffer::Allocate(size_t bytes) {
  if (bytes == 0) return AlignedBuffer();
  const auto out_of_memory = [&] {
    return absl::ResourceExhaustedError(absl::StrCat("cannot allocate ", bytes, " bytes"));
  };
  if (bytes > SIZE_MAX / 2) return out_of_memory();
  if (bytes < kHugePage) {
    void* memory = std::aligned_alloc(kAlignment, RoundUp(bytes, kAlignment));
    if (memory == nullptr) return out_of_memory();
    std::memset(memory, 0, RoundUp(bytes, kAlignment));
    return AlignedBuffer(static_cast<uint8_t*>(memory), bytes, 0);
  }
  const size_t size = RoundUp(bytes, kHugePage);
  const size_t reserved = size + kHugePage;
  void* memory =
      mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return out_of_memory();
  // Give back the ends that alignment does not need.
  const size_t head =
      RoundUp(reinterpret_cast<uintptr_t>(memory), kHugePage) - reinterpret_cast<uintptr_t>(memory);
  uint8_t* const aligned = static_cast<uint8_t*>(memory) + head;
  if (head != 0) munmap(memory, head);
  if (head != kHugePage) munmap(aligned + size, kHugePage - head);
  madvise(aligned, size, MADV_HUGEPAGE);  // a hint
  return AlignedBuffer(aligned, bytes, size);
}

AlignedBuffer::~AlignedBuffer() {
  if (mapped_ != 0) {
    munmap(data_, mapped_);
  } else {
    std::free(data_);
  }
}

AlignedBuffer::AlignedBuffer(AlignedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      mapped_(std::exchange(other.mapped_, 0)) {}

AlignedBuffer& AlignedBuffer::operator=(AlignedBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(mapped_, other.mapped_);
  return *this;
}

}  // namespace paceline::kernels
