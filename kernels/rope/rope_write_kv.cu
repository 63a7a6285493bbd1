// A block takes one row, a thread one pair of elements at a time. Bound by memory.
#include "absl/strings/str_cat.h"
#include "kernels/device/element.cuh"
#include "kernels/rope/rope_write_kv_device.h"

namespace paceline::kernels {
namespace {

constexpr int kThreads = 128;

template <typename T>
__global__ void RopeWriteKvKernel(RopeWriteKvArgs args) {
  const int64_t row = device::BlockPosition().x;
  const int32_t half = args.rotary_dim / 2;
  const int32_t pairs = args.head_dim / 2;
  const int32_t num_turned = args.num_heads + args.num_kv_heads;
  const int32_t num_all = num_turned + args.num_kv_heads;
  auto* const x = static_cast<uint16_t*>(args.qkv) + row * num_all * args.head_dim;
  const float* const cosines = args.angles + int64_t{args.positions[row]} * args.rotary_dim;
  const int64_t page = args.slots[row] / args.page_size;
  const int64_t token = args.slots[row] % args.page_size;
  for (int32_t i = device::ThreadPosition().x; i < num_all * pairs; i += kThreads) {
    const int32_t head = i / pairs;
    const int32_t pair = i % pairs;
    // Past rotary_dim nothing turns, and elements are paired with their neighbours.
    const bool turns = head < num_turned && pair < half;
    const bool apart = args.style == RopeStyle::kHalf && pair < half;
    const int32_t first = apart ? pair : 2 * pair;
    const int32_t second = apart ? pair + half : 2 * pair + 1;
    uint16_t* const from = x + head * args.head_dim;
    uint16_t a = from[first];
    uint16_t b = from[second];
    if (turns) {
      const float cosine = cosines[pair];
      const float sine = cosines[half + pair];
      const float u = T::ToFloat(a);
      const float v = T::ToFloat(b);
      a = T::FromFloat(u * cosine - v * sine);
      b = T::FromFloat(u * sine + v * cosine);
    }
    uint16_t* to = from;
    if (head >= args.num_heads) {
      const int32_t value = head >= num_turned ? 1 : 0;
      const int64_t kv_head = head - args.num_heads - value * args.num_kv_heads;
      const int64_t place = ((page * args.num_kv_heads + kv_head) * 2 + value) * args.page_size;
      to = static_cast<uint16_t*>(args.kv) + (place + token) * args.head_dim;
    }
    to[first] = a;
    to[second] = b;
  }
}

}  // namespace

absl::Status RopeWriteKv(device::Stream stream, const RopeWriteKvArgs& args) {
  if (args.rows <= 0 || args.num_heads <= 0 || args.num_kv_heads <= 0 || args.head_dim <= 0 ||
      args.head_dim % 2 != 0 || args.rotary_dim < 0 || args.rotary_dim % 2 != 0 ||
      args.rotary_dim > args.head_dim || args.page_size <= 0) {
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
  return device::Launch(
      stream,
      {args.rows},
      {kThreads},
      0,
      args.dtype == DType::kBF16 ? RopeWriteKvKernel<device::Bf16> : RopeWriteKvKernel<device::F16>,
      args);
}

}  // namespace paceline::kernels
