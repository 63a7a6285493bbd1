// A block takes one row, a thread one pair of elements at a time; where keys and values become 8
// bits a warp takes one of their heads, for the scale of all. Bound by memory.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/device/element.cuh"
#include "kernels/rope/rope_write_kv_device.h"

namespace paceline::kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kMaxPairs = 256 / 2 / 32;  // of a lane, in a cache of 8 bits

// Two elements of a head that turn together, or past rotary_dim, where nothing turns, neighbours.
struct Pair {
  int32_t first;  // indices
  int32_t second;
  float a;  // what they become
  float b;
};

// The row of a block.
template <typename T>
class Row {
 public:
  __device__ explicit Row(const RopeWriteKvArgs& args)
      : args_(args),
        row_(device::BlockPosition().x),
        num_turned_(args.num_heads + args.num_kv_heads),
        x_(static_cast<uint16_t*>(args.qkv) +
           row_ * (num_turned_ + args.num_kv_heads) * args.head_dim),
        cosines_(args.angles + int64_t{args.positions[row_]} * args.rotary_dim) {}

  __device__ Pair Turned(int32_t head, int32_t pair) const {
    const int32_t half = args_.rotary_dim / 2;
    const bool apart = args_.style == RopeStyle::kHalf && pair < half;
    Pair result;
    result.first = apart ? pair : 2 * pair;
    result.second = apart ? pair + half : 2 * pair + 1;
    result.a = Normed(head, result.first);
    result.b = Normed(head, result.second);
    if (head < num_turned_ && pair < half) {
      const float cosine = cosines_[pair];
      const float sine = cosines_[half + pair];
      const float u = result.a;
      const float v = result.b;
      result.a = u * cosine - v * sine;
      result.b = u * sine + v * cosine;
    }
    return result;
  }

  // Before the first Turned; all threads.
  __device__ void Norm() {
    if (args_.q_norm == nullptr && args_.k_norm == nullptr) return;
    const int32_t lane = device::ThreadPosition().x % 32;
    for (int32_t head = device::ThreadPosition().x / 32; head < num_turned_; head += kWarps) {
      float sum = 0;
      for (int32_t i = lane; i < args_.head_dim; i += 32) {
        const float x = T::ToFloat(Head(head)[i]);
        sum = device::MulAdd(x, x, sum);
      }
      for (int mask = 16; mask > 0; mask /= 2) sum += device::ShuffleXor(sum, mask);
      const float mean = sum / static_cast<float>(args_.head_dim);
      if (lane == 0) inverse_rms_[head] = device::InverseSqrt(mean + args_.norm_eps);
    }
    device::SyncThreads();
  }

  // In qkv.
  __device__ uint16_t* Head(int32_t head) const { return x_ + head * args_.head_dim; }

  // Where the cache has the first token of this page of head `head`, which is not a query's, a
  // token there having so many bytes.
  __device__ char* Page(int32_t head, int32_t token_bytes) const {
    const int32_t value = head >= num_turned_ ? 1 : 0;
    const int64_t kv_head = head - args_.num_heads - value * args_.num_kv_heads;
    const int64_t page = args_.slots[row_] / args_.page_size;
    const int64_t part = (page * args_.num_kv_heads + kv_head) * 2 + value;
    return static_cast<char*>(args_.kv) + part * args_.page_size * token_bytes;
  }
  __device__ int32_t token() const {
    return static_cast<int32_t>(args_.slots[row_] % args_.page_size);
  }

 private:
  __device__ float Normed(int32_t head, int32_t i) const {
    const float x = T::ToFloat(Head(head)[i]);
    if (head >= num_turned_) return x;
    const float* const weight = head < args_.num_heads ? args_.q_norm : args_.k_norm;
    return weight == nullptr ? x : x * inverse_rms_[head] * weight[i];
  }

  const RopeWriteKvArgs& args_;
  const int64_t row_;
  const int32_t num_turned_;
  uint16_t* const x_;
  const float* const cosines_;
  float* const inverse_rms_ = reinterpret_cast<float*>(device::SharedMemory());
};

template <typename T>
__device__ __forceinline__ void Store(const Pair& pair, uint16_t* to) {
  to[pair.first] = T::FromFloat(pair.a);
  to[pair.second] = T::FromFloat(pair.b);
}

template <typename T>
__global__ void RopeWriteKvKernel(RopeWriteKvArgs args) {
  if (args.slots[device::BlockPosition().x] < 0) return;
  Row<T> row(args);
  row.Norm();
  const int32_t pairs = args.head_dim / 2;
  const int32_t num_heads = args.num_heads + 2 * args.num_kv_heads;
  for (int32_t i = device::ThreadPosition().x; i < num_heads * pairs; i += kThreads) {
    const int32_t head = i / pairs;
    uint16_t* to = row.Head(head);
    if (head >= args.num_heads) {
      to = reinterpret_cast<uint16_t*>(row.Page(head, 2 * args.head_dim)) +
           row.token() * args.head_dim;
    }
    Store<T>(row.Turned(head, i % pairs), to);
  }
}

// A warp stores a head as Kv, with its scale (kernels/kv_cache/write_kv_cpu.cc has int8).
template <typename T, typename Kv>
__device__ void StoreScaled(const RopeWriteKvArgs& args, const Row<T>& row, int32_t head) {
  const int32_t lane = device::ThreadPosition().x % 32;
  const int32_t pairs = args.head_dim / 2;
  Pair mine[kMaxPairs];
  float largest = 0;
  bool finite = true;
#pragma unroll
  for (int i = 0; i < kMaxPairs; ++i) {
    if (lane + 32 * i >= pairs) break;
    mine[i] = row.Turned(head, lane + 32 * i);
    for (const float x : {mine[i].a, mine[i].b}) {
      const float magnitude = x < 0 ? -x : x;
      largest = largest > magnitude ? largest : magnitude;
      finite &= x - x == 0.0f;
    }
  }
  for (int mask = 16; mask > 0; mask /= 2) {
    const float other = device::ShuffleXor(largest, mask);
    largest = largest > other ? largest : other;
    finite &= device::ShuffleXor(finite ? 1 : 0, mask) != 0;
  }
  const bool zero = !finite || largest < 1e-30f;
  const float scale = zero ? (finite ? 0.0f : NAN) : largest / Kv::kLargest;
  const float inverse = zero ? 0.0f : 1.0f / scale;
  char* const page = row.Page(head, args.head_dim + static_cast<int>(sizeof(float)));
  auto* const to = reinterpret_cast<uint8_t*>(page) + row.token() * args.head_dim;
#pragma unroll
  for (int i = 0; i < kMaxPairs; ++i) {
    if (lane + 32 * i >= pairs) break;
    to[mine[i].first] = zero ? 0 : Kv::FromFloat(mine[i].a * inverse);
    to[mine[i].second] = zero ? 0 : Kv::FromFloat(mine[i].b * inverse);
  }
  if (lane == 0) {
    reinterpret_cast<float*>(page + args.page_size * args.head_dim)[row.token()] = scale;
  }
}

template <typename T, typename Kv>
__global__ void RopeWriteScaledKvKernel(RopeWriteKvArgs args) {
  if (args.slots[device::BlockPosition().x] < 0) return;
  Row<T> row(args);
  row.Norm();
  const int32_t pairs = args.head_dim / 2;
  for (int32_t i = device::ThreadPosition().x; i < args.num_heads * pairs; i += kThreads) {
    Store<T>(row.Turned(i / pairs, i % pairs), row.Head(i / pairs));
  }
  for (int32_t head = device::ThreadPosition().x / 32; head < 2 * args.num_kv_heads;
       head += kWarps) {
    StoreScaled<T, Kv>(args, row, args.num_heads + head);
  }
}

}  // namespace

absl::Status RopeWriteKv(device::Stream stream, const RopeWriteKvArgs& args) {
  if (args.rows <= 0 || args.num_heads <= 0 || args.num_kv_heads <= 0 || args.head_dim <= 0 ||
      args.head_dim % 2 != 0 || args.rotary_dim < 0 || args.rotary_dim % 2 != 0 ||
      args.rotary_dim > args.head_dim || args.page_size <= 0 ||
      (args.kv_dtype != args.dtype && args.head_dim > 64 * kMaxPairs)) {
    return absl::InvalidArgumentError(absl::StrCat("RopeWriteKv: ",
                                                   args.rows,
                                                   " rows of ",
                                                   args.num_heads,
                                                   " + 2 * ",
                                                   args.num_kv_heads,
                                                   " heads of ",
                                                   args.head_dim,
                                                   ", of which ",
                                                   args.rotary_dim,
                                                   " turn, in pages of ",
                                                   args.page_size));
  }
  if (args.dtype != DType::kBF16 && args.dtype != DType::kF16) {
    return absl::InvalidArgumentError("RopeWriteKv: elements must be bf16 or f16");
  }
  const auto kernel = [&]<typename T>() -> void (*)(RopeWriteKvArgs) {
    if (args.kv_dtype == DType::kI8) return RopeWriteScaledKvKernel<T, device::Int8>;
    if (args.kv_dtype == DType::kE4M3) return RopeWriteScaledKvKernel<T, device::E4M3>;
    return args.kv_dtype == args.dtype ? RopeWriteKvKernel<T> : nullptr;
  };
  void (*const chosen)(RopeWriteKvArgs) = args.dtype == DType::kBF16
                                              ? kernel.template operator()<device::Bf16>()
                                              : kernel.template operator()<device::F16>();
  if (chosen == nullptr) return absl::InvalidArgumentError("RopeWriteKv: a cache of another type");
  const bool norms = args.q_norm != nullptr || args.k_norm != nullptr;
  const int64_t shared_bytes =
      norms ? (args.num_heads + args.num_kv_heads) * int64_t{sizeof(float)} : 0;
  return device::Launch(stream, {args.rows}, {kThreads}, shared_bytes, chosen, args);
}

}  // namespace paceline::kernels
