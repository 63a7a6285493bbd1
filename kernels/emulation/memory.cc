#include "kernels/emulation/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

namespace paceline::kernels::emulation {
namespace {

constexpr int64_t kPage = 4096;

int64_t DataPages(int64_t bytes) { return (bytes + kPage - 1) / kPage; }

// The pages of `fd`, or of nobody else, and one that may not be touched.
void* Map(int fd, int64_t bytes) {
  const int64_t size = DataPages(bytes) * kPage;
  void* const pages =
      mmap(nullptr, size + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return nullptr;
  if (fd >= 0 &&
      mmap(pages, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
    munmap(pages, size + kPage);
    return nullptr;
  }
  char* const guard = static_cast<char*>(pages) + size;
  if (mprotect(guard, kPage, PROT_NONE) != 0) std::abort();
  return guard - (bytes + 3) / 4 * 4;
}

}  // namespace

void* Allocate(int64_t bytes) {
  void* const memory = Map(-1, bytes);
  if (memory == nullptr) std::abort();
  std::memset(memory, 0xff, (bytes + 3) / 4 * 4);
  return memory;
}

void* AllocateShared(int64_t bytes, int& fd) {
  fd = memfd_create("device_memory", MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, DataPages(bytes) * kPage) != 0) std::abort();
  void* const memory = MapShared(fd, bytes);
  if (memory == nullptr) std::abort();
  std::memset(memory, 0xff, (bytes + 3) / 4 * 4);
  return memory;
}

void* MapShared(int fd, int64_t bytes) { return Map(fd, bytes); }

void Free(void* memory, int64_t bytes) {
  char* const guard = static_cast<char*>(memory) + (bytes + 3) / 4 * 4;
  munmap(guard - DataPages(bytes) * kPage, (DataPages(bytes) + 1) * kPage);
}

}  // namespace paceline::kernels::emulation
