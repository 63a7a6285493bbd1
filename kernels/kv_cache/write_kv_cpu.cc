#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/dispatch.h"
#include "kernels/half.h"
#include "kernels/kv_cache/kv_kernels.h"
#include "kernels/kv_cache/write_kv.h"

namespace paceline::kernels {
namespace {

constexpr int32_t kMaxHeadDim = 512;

void ToHalf(const float* x, int64_t n, uint16_t* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = FloatToHalf(x[i]);
}

float ToInt8(const float* x, int64_t n, int8_t* out) {
  float largest = 0;
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) {
    largest = std::max(largest, std::fabs(x[i]));
    finite &= std::isfinite(x[i]);
  }
  if (!finite || largest < 1e-30f) {
    std::memset(out, 0, n);
    return finite ? 0.0f : NAN;
  }
  const float scale = largest / 127.0f;
  const float inverse = 1.0f / scale;
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<int8_t>(std::lrint(x[i] * inverse));
  return scale;
}

const KvKernels& Kernels() {
  return Select(IsaTables<KvKernels>{&kKvPortable, &kKvAvx2, &kKvAvx512});
}

// K is transposed in the cache: one token is a column.
template <typename T>
void StoreHead(
    const T* k, const T* v, int32_t head_dim, int32_t token, uint8_t* key, uint8_t* value) {
  T* const column = reinterpret_cast<T*>(key) + token;
  for (int32_t d = 0; d < head_dim; ++d) column[d * kKvBlockSize] = k[d];
  std::memcpy(reinterpret_cast<T*>(value) + token * head_dim, v, head_dim * sizeof(T));
}

void StoreInt8Head(const KvKernels& kernels,
                   const float* k,
                   const float* v,
                   int32_t token,
                   const KvLayout& layout,
                   uint8_t* key,
                   uint8_t* value) {
  int8_t bytes[kMaxHeadDim];
  const auto put_scale = [&](uint8_t* head, float scale) {
    reinterpret_cast<float*>(head + layout.ElementBytes())[token] = scale;
  };
  const int32_t head_dim = layout.head_dim;
  put_scale(key, kernels.to_int8(k, head_dim, bytes));
  uint8_t* const column = key + 2 * token;
  for (int32_t d = 0; d < head_dim; d += 2) {
    std::memcpy(column + d * kKvBlockSize, bytes + d, 2);
  }
  put_scale(value, kernels.to_int8(v, head_dim, bytes));
  uint8_t* const row = value + token / 2 * 2 * head_dim + token % 2;
  for (int32_t d = 0; d < head_dim; ++d) row[2 * d] = static_cast<uint8_t>(bytes[d]);
}

void StoreToken(const KvKernels& kernels,
                const float* k,
                const float* v,
                int32_t slot,
                int32_t layer,
                const KvCacheView& cache) {
  const int32_t head_dim = cache.layout.head_dim;
  const int32_t block = slot / kKvBlockSize;
  const int32_t token = slot % kKvBlockSize;
  for (int32_t h = 0; h < cache.layout.num_kv_heads; ++h, k += head_dim, v += head_dim) {
    uint8_t* const key = cache.Key(block, layer, h);
    uint8_t* const value = cache.Value(block, layer, h);
    if (cache.layout.dtype == DType::kF32) {
      StoreHead(k, v, head_dim, token, key, value);
      continue;
    }
    if (cache.layout.dtype == DType::kI8) {
      StoreInt8Head(kernels, k, v, token, cache.layout, key, value);
      continue;
    }
    uint16_t half_k[kMaxHeadDim];
    uint16_t half_v[kMaxHeadDim];
    kernels.to_half(k, head_dim, half_k);
    kernels.to_half(v, head_dim, half_v);
    StoreHead(half_k, half_v, head_dim, token, key, value);
  }
}

}  // namespace

const KvKernels kKvPortable = {ToHalf, ToInt8};

absl::Status CheckLayout(const KvLayout& layout) {
  if (layout.num_layers <= 0 || layout.num_kv_heads <= 0 || layout.head_dim <= 0 ||
      layout.head_dim % 16 != 0 || layout.head_dim > kMaxHeadDim) {
    return absl::InvalidArgumentError(absl::StrCat("KV layout: ",
                                                   layout.num_layers,
                                                   " layers, ",
                                                   layout.num_kv_heads,
                                                   " heads of ",
                                                   layout.head_dim,
                                                   " (a multiple of 16, at most ",
                                                   kMaxHeadDim,
                                                   ")"));
  }
  if (layout.dtype != DType::kF16 && layout.dtype != DType::kI8 && layout.dtype != DType::kF32) {
    return absl::InvalidArgumentError("KV layout: the element type must be F16, I8 or F32");
  }
  return absl::OkStatus();
}

absl::Status CopyBlocks(ThreadPool& pool,
                        const KvCacheView& cache,
                        absl::Span<const BlockCopy> copies) {
  if (auto status = CheckLayout(cache.layout); !status.ok()) return status;
  const auto outside = [&](int32_t id) { return id < 0 || id >= cache.num_blocks; };
  for (const BlockCopy& copy : copies) {
    if (outside(copy.from) || outside(copy.to)) {
      return absl::InvalidArgumentError(
          absl::StrCat("CopyBlocks: block ", copy.from, " to ", copy.to, " of ", cache.num_blocks));
    }
  }
  const int64_t bytes = cache.layout.BytesPerBlock();
  // Split inside the block, so that copies happen in order (one's target may be the next's source).
  pool.ForRange(
      copies.empty() ? 0 : bytes / 64, static_cast<int64_t>(copies.size()), [&](WorkRange lines) {
        for (const BlockCopy& copy : copies) {
          std::memmove(cache.base + copy.to * bytes + lines.begin * 64,
                       cache.base + copy.from * bytes + lines.begin * 64,
                       (lines.end - lines.begin) * 64);
        }
      });
  return absl::OkStatus();
}

absl::Status WriteKv(ThreadPool& pool,
                     const Matrix& k,
                     const Matrix& v,
                     absl::Span<const int32_t> slots,
                     int32_t layer,
                     const KvCacheView& cache) {
  if (auto status = CheckLayout(cache.layout); !status.ok()) return status;
  if (auto status = CheckView("WriteKv", "k[m, heads * head_dim]", k); !status.ok()) return status;
  if (auto status = CheckView("WriteKv", "v[m, heads * head_dim]", v); !status.ok()) return status;
  const int64_t width = int64_t{cache.layout.num_kv_heads} * cache.layout.head_dim;
  const auto m = static_cast<int64_t>(slots.size());
  if (k.rows != m || v.rows != m || k.cols != width || v.cols != width) {
    return absl::InvalidArgumentError(absl::StrCat("WriteKv: k ",
                                                   ShapeString(k),
                                                   " and v ",
                                                   ShapeString(v),
                                                   " do not fit ",
                                                   m,
                                                   " slots of ",
                                                   width));
  }
  if (layer < 0 || layer >= cache.layout.num_layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("WriteKv: layer ", layer, " of ", cache.layout.num_layers));
  }
  const int64_t num_slots = int64_t{cache.num_blocks} * kKvBlockSize;
  for (int32_t slot : slots) {
    if (slot < 0 || slot >= num_slots) {
      return absl::InvalidArgumentError(absl::StrCat("WriteKv: slot ", slot, " of ", num_slots));
    }
  }
  const KvKernels& kernels = Kernels();
  pool.ForRange(m, width, [&](WorkRange rows) {
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      StoreToken(kernels, k.row(i), v.row(i), slots[i], layer, cache);
    }
  });
  return absl::OkStatus();
}

}  // namespace paceline::kernels
