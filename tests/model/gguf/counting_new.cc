// Apart from the tests that use it: where the compiler can inline these, it takes the pair of new
// and free for a mistake.
#include "tests/model/gguf/counting_new.h"

#include <atomic>
#include <cstdlib>
#include <new>

namespace paceline::model {
namespace {

std::atomic<size_t> allocated_bytes{0};

}  // namespace

void ResetAllocatedBytes() { allocated_bytes = 0; }
size_t AllocatedBytes() { return allocated_bytes; }

// For the operators below, which are in no namespace.
void* CountedAllocation(size_t size) {
  allocated_bytes += size;
  if (void* memory = std::malloc(size > 0 ? size : 1)) return memory;
  throw std::bad_alloc();
}

}  // namespace paceline::model

void* operator new(size_t size) { return paceline::model::CountedAllocation(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
