#include "worker/comm/sum.h"

#include <cstring>

namespace paceline::worker {
namespace {

constexpr int64_t kBlock = 64;  // elements; a constant, so that the loops over it become vectors

// REQUIRES: 0 < count <= kBlock.
template <typename T>
void SumBlock(absl::Span<const void* const> parts, int64_t first, int64_t count, T* out) {
  alignas(64) T sum[kBlock] = {};
  alignas(64) T part[kBlock] = {};
  const size_t bytes = static_cast<size_t>(count) * sizeof(T);
  std::memcpy(sum, static_cast<const T*>(parts[0]) + first, bytes);
  for (size_t p = 1; p < parts.size(); ++p) {
    std::memcpy(part, static_cast<const T*>(parts[p]) + first, bytes);
    for (int64_t i = 0; i < kBlock; ++i) sum[i] += part[i];
  }
  std::memcpy(out + first, sum, bytes);
}

template <typename T>
void SumAll(absl::Span<const void* const> parts, int64_t count, void* out) {
  T* const to = static_cast<T*>(out);
  int64_t i = 0;
  // The constant count of whole blocks lets the compiler inline the copies.
  for (; i + kBlock <= count; i += kBlock) SumBlock<T>(parts, i, kBlock, to);
  if (i < count) SumBlock<T>(parts, i, count - i, to);
}

}  // namespace

int64_t BytesOf(SumType type) { return type == SumType::kI64 ? 8 : 4; }

void SumInOrder(absl::Span<const void* const> parts, int64_t count, SumType type, void* out) {
  switch (type) {
    case SumType::kF32:
      return SumAll<float>(parts, count, out);
    case SumType::kI32:  // unsigned, which may wrap
      return SumAll<uint32_t>(parts, count, out);
    case SumType::kI64:
      return SumAll<uint64_t>(parts, count, out);
  }
}

}  // namespace paceline::worker
