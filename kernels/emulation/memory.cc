#include "kernels/emulation/memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

namespace paceline::kernels::emulation {
namespace {

constexpr int64_t kPage = 4096;

int64_t DataPages(int64_t bytes) { return (bytes + kPage - 1) / kPage; }

}  // namespace

void* Allocate(int64_t bytes) {
  const int64_t size = (DataPages(bytes) + 1) * kPage;
  void* const pages =
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) std::abort();
  char* const guard = static_cast<char*>(pages) + DataPages(bytes) * kPage;
  if (mprotect(guard, kPage, PROT_NONE) != 0) std::abort();
  std::memset(pages, 0xff, DataPages(bytes) * kPage);
  return guard - (bytes + 3) / 4 * 4;
}

void Free(void* memory, int64_t bytes) {
  char* const guard = static_cast<char*>(memory) + (bytes + 3) / 4 * 4;
  munmap(guard - DataPages(bytes) * kPage, (DataPages(bytes) + 1) * kPage);
}

}  // namespace paceline::kernels::emulation
