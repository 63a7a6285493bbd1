// A block computes one chunk of one KV head for all query heads of its group: they are the rows of
// the tensor cores' 16-row operand, so K and V are read once for all of them. Tiles of 64 positions
// come through two stages of asynchronous copies; warp w takes positions 16 w to 16 w + 15 of each
// tile, with its own running softmax, and the four are merged at the end of the chunk. Bound by
// reading K and V.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/attention/paged_decode_device.h"
#include "kernels/device/element.cuh"

namespace paceline::kernels {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kTile = 16 * kWarps;  // positions
constexpr int kStages = 2;
constexpr int kRows = 16;  // of the tensor cores' operand
constexpr float kLog2E = 1.44269504f;
constexpr float kLowest = -INFINITY;

// Elements of a row of K or V in shared memory: padded, so that the eight rows of a matrix lie in
// different banks.
template <int kHeadDim>
constexpr int kPitch = kHeadDim + 8;
template <int kHeadDim>
constexpr int kStageElements = 2 * kTile* kPitch<kHeadDim>;

template <int kHeadDim>
constexpr int64_t SharedBytes() {
  const int64_t stages = int64_t{kStages} * kStageElements<kHeadDim> * sizeof(uint16_t);
  const int64_t merge = int64_t{kWarps} * kRows * (kHeadDim + 2) * sizeof(float);
  return stages > merge ? stages : merge;
}

// Starts the copies of tile `tile`; positions from `end` on become zeros.
template <int kHeadDim>
__device__ __forceinline__ void LoadTile(
    const PagedDecodeArgs& args, const DecodeItem& item, int tile, int end, uint16_t* stage) {
  constexpr int kPieces = kHeadDim / 8;  // of 16 bytes, in a row
  const auto* const kv = static_cast<const uint16_t*>(args.kv);
  const int begin = item.chunk * kDeviceKvChunk + tile * kTile;
  const int64_t head_elements = int64_t{args.page_size} * kHeadDim;
  for (int i = device::ThreadPosition().x; i < 2 * kTile * kPieces; i += kThreads) {
    const int piece = i % kPieces;
    const int row = i / kPieces % kTile;
    const int which = i / (kPieces * kTile);  // K, V
    const int position = begin + row;
    uint16_t* const to = stage + (which * kTile + row) * kPitch<kHeadDim> + 8 * piece;
    if (position < end) {
      const int64_t page =
          args.page_table[int64_t{item.sequence} * args.max_pages + position / args.page_size];
      const int64_t head = (page * args.num_kv_heads + item.kv_head) * 2 + which;
      const uint16_t* const from =
          kv + head * head_elements + position % args.page_size * kHeadDim + 8 * piece;
      device::CopyAsync16(to, from);
    } else {
      for (int j = 0; j < 8; ++j) to[j] = 0;
    }
  }
  device::CommitCopies();
}

// Rows of q as the left operand: lane's rows are lane / 4 and that + 8, zero past the group.
template <int kHeadDim>
__device__ __forceinline__ void LoadQuery(const uint16_t* q,
                                          int group,
                                          uint32_t (&fragments)[kHeadDim / 16][4]) {
  const int lane = device::ThreadPosition().x % 32;
  for (int k = 0; k < kHeadDim / 16; ++k) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + (i % 2) * 8;
      const int column = k * 16 + lane % 4 * 2 + (i / 2) * 8;
      uint32_t pair = 0;
      if (row < group) {
        const uint16_t* const p = q + row * kHeadDim + column;
        pair = p[0] | static_cast<uint32_t>(p[1]) << 16;
      }
      fragments[k][i] = pair;
    }
  }
}

__device__ __forceinline__ float MaxOfRow(float value) {
  for (int mask = 1; mask < 4; mask *= 2) {
    const float other = device::ShuffleXor(value, mask);
    value = value > other ? value : other;
  }
  return value;
}
__device__ __forceinline__ float SumOfRow(float value) {
  for (int mask = 1; mask < 4; mask *= 2) value += device::ShuffleXor(value, mask);
  return value;
}

// One warp's running softmax over the positions it has seen; half h is row lane / 4 + 8 h.
template <typename T, int kHeadDim>
struct WarpState {
  float out[kHeadDim / 8][4];
  float max[2];
  float sum[2];

  __device__ void Clear() {
    for (auto& four : out) {
      for (float& value : four) value = 0;
    }
    for (int h = 0; h < 2; ++h) {
      max[h] = kLowest;
      sum[h] = 0;
    }
  }

  // Takes in 16 positions, of which the first `visible` are seen.
  __device__ void Add(const uint32_t (&q)[kHeadDim / 16][4],
                      const uint16_t* keys,
                      const uint16_t* values,
                      int visible,
                      float scale_log2) {
    const int lane = device::ThreadPosition().x % 32;
    const int matrix = lane / 8;
    float scores[2][4] = {};
    for (int k = 0; k < kHeadDim / 16; ++k) {
      uint32_t b[4];
      device::LoadMatrix4(
          b, keys + (matrix / 2 * 8 + lane % 8) * kPitch<kHeadDim> + k * 16 + matrix % 2 * 8);
      T::Mma(scores[0], q[k], {b[0], b[1]});
      T::Mma(scores[1], q[k], {b[2], b[3]});
    }
    float rescale[2];
    for (int h = 0; h < 2; ++h) {
      float most = max[h];
      for (int n = 0; n < 2; ++n) {
        for (int i = 0; i < 2; ++i) {
          float& score = scores[n][2 * h + i];
          score = n * 8 + lane % 4 * 2 + i < visible ? score * scale_log2 : kLowest;
          most = most > score ? most : score;
        }
      }
      most = MaxOfRow(most);
      // Nothing seen so far: any finite maximum will do.
      const float base = most == kLowest ? 0.0f : most;
      rescale[h] = device::Exp2(max[h] - base);
      float added = 0;
      for (int n = 0; n < 2; ++n) {
        for (int i = 0; i < 2; ++i) {
          float& score = scores[n][2 * h + i];
          score = device::Exp2(score - base);
          added += score;
        }
      }
      max[h] = most;
      sum[h] = sum[h] * rescale[h] + SumOfRow(added);
    }
    const uint32_t p[4] = {device::Pack<T>(scores[0][0], scores[0][1]),
                           device::Pack<T>(scores[0][2], scores[0][3]),
                           device::Pack<T>(scores[1][0], scores[1][1]),
                           device::Pack<T>(scores[1][2], scores[1][3])};
    for (int d = 0; d < kHeadDim / 16; ++d) {
      uint32_t b[4];
      device::LoadMatrix4Transposed(
          b, values + (matrix % 2 * 8 + lane % 8) * kPitch<kHeadDim> + d * 16 + matrix / 2 * 8);
      for (int n = 0; n < 2; ++n) {
        float(&o)[4] = out[2 * d + n];
        for (int i = 0; i < 4; ++i) o[i] *= rescale[i / 2];
        T::Mma(o, p, {b[2 * n], b[2 * n + 1]});
      }
    }
  }

  // [row][kHeadDim weighted sums, maximum, sum of weights]
  __device__ void Store(float* merge) const {
    const int lane = device::ThreadPosition().x % 32;
    for (int h = 0; h < 2; ++h) {
      float* const row = merge + (lane / 4 + 8 * h) * (kHeadDim + 2);
      for (int n = 0; n < kHeadDim / 8; ++n) {
        for (int i = 0; i < 2; ++i) row[n * 8 + lane % 4 * 2 + i] = out[n][2 * h + i];
      }
      if (lane % 4 == 0) {
        row[kHeadDim] = max[h];
        row[kHeadDim + 1] = sum[h];
      }
    }
  }
};

template <typename T, int kHeadDim>
__global__ void ChunkKernel(PagedDecodeArgs args) {
  const DecodeItem item = args.items[device::BlockPosition().x];
  const int group = args.num_heads / args.num_kv_heads;
  const int begin = item.chunk * kDeviceKvChunk;
  const int length = args.lengths[item.sequence];
  const int end = length < begin + kDeviceKvChunk ? length : begin + kDeviceKvChunk;
  const int num_tiles = (end - begin + kTile - 1) / kTile;
  auto* const stages = reinterpret_cast<uint16_t*>(device::SharedMemory());
  const int warp = device::ThreadPosition().x / 32;

  uint32_t q[kHeadDim / 16][4];
  const int64_t first_head = int64_t{item.sequence} * args.num_heads + item.kv_head * group;
  LoadQuery<kHeadDim>(static_cast<const uint16_t*>(args.q) + first_head * kHeadDim, group, q);
  WarpState<T, kHeadDim> state;
  state.Clear();
  LoadTile<kHeadDim>(args, item, 0, end, stages);
  for (int tile = 0; tile < num_tiles; ++tile) {
    if (tile + 1 < num_tiles) {
      LoadTile<kHeadDim>(
          args, item, tile + 1, end, stages + (tile + 1) % kStages * kStageElements<kHeadDim>);
      device::WaitForCopies<1>();
    } else {
      device::WaitForCopies<0>();
    }
    device::SyncThreads();
    const uint16_t* const keys =
        stages + tile % kStages * kStageElements<kHeadDim> + 16 * warp * kPitch<kHeadDim>;
    const int visible = end - begin - tile * kTile - 16 * warp;
    state.Add(q, keys, keys + kTile * kPitch<kHeadDim>, visible, args.scale * kLog2E);
    device::SyncThreads();
  }

  auto* const merge = reinterpret_cast<float*>(device::SharedMemory());
  state.Store(merge + warp * kRows * (kHeadDim + 2));
  device::SyncThreads();
  float* const partials =
      args.partials + int64_t{device::BlockPosition().x} * group * (kHeadDim + 2);
  for (int i = device::ThreadPosition().x; i < group * kHeadDim; i += kThreads) {
    const int row = i / kHeadDim;
    const int d = i % kHeadDim;
    float most = kLowest;
    for (int w = 0; w < kWarps; ++w) {
      const float max = merge[(w * kRows + row) * (kHeadDim + 2) + kHeadDim];
      most = most > max ? most : max;
    }
    float value = 0;
    float sum = 0;
    for (int w = 0; w < kWarps; ++w) {
      const float* const part = merge + (w * kRows + row) * (kHeadDim + 2);
      const float weight = device::Exp2(part[kHeadDim] - most);
      value += weight * part[d];
      sum += weight * part[kHeadDim + 1];
    }
    partials[row * (kHeadDim + 2) + d] = value;
    if (d == 0) {
      partials[row * (kHeadDim + 2) + kHeadDim] = most;
      partials[row * (kHeadDim + 2) + kHeadDim + 1] = sum;
    }
  }
}

// A block merges one query head's chunks, in order of position.
template <typename T, int kHeadDim>
__global__ void MergeKernel(PagedDecodeArgs args) {
  const int sequence = device::BlockPosition().x;
  const int head = device::BlockPosition().y;
  const int group = args.num_heads / args.num_kv_heads;
  const int num_chunks = (args.lengths[sequence] + kDeviceKvChunk - 1) / kDeviceKvChunk;
  const int64_t first = args.first_item[sequence] + int64_t{head / group} * num_chunks;
  const float* const partials = args.partials + (first * group + head % group) * (kHeadDim + 2);
  const int64_t stride = int64_t{group} * (kHeadDim + 2);
  uint16_t* const out =
      static_cast<uint16_t*>(args.out) + (int64_t{sequence} * args.num_heads + head) * kHeadDim;
  for (int d = device::ThreadPosition().x; d < kHeadDim; d += kThreads) {
    float most = kLowest;
    float value = 0;
    float sum = 0;
    for (int chunk = 0; chunk < num_chunks; ++chunk) {
      const float* const part = partials + chunk * stride;
      const float next = part[kHeadDim] > most ? part[kHeadDim] : most;
      const float keep = device::Exp2(most - next);
      const float add = device::Exp2(part[kHeadDim] - next);
      value = value * keep + part[d] * add;
      sum = sum * keep + part[kHeadDim + 1] * add;
      most = next;
    }
    out[d] = T::FromFloat(value / sum);
  }
}

template <typename T, int kHeadDim>
absl::Status Run(device::Stream stream, const PagedDecodeArgs& args) {
  if (auto status = device::Launch(stream,
                                   {args.num_items},
                                   {kThreads},
                                   SharedBytes<kHeadDim>(),
                                   ChunkKernel<T, kHeadDim>,
                                   args);
      !status.ok()) {
    return status;
  }
  return device::Launch(
      stream, {args.num_sequences, args.num_heads}, {kThreads}, 0, MergeKernel<T, kHeadDim>, args);
}

template <typename T>
absl::Status RunHeadDim(device::Stream stream, const PagedDecodeArgs& args) {
  switch (args.head_dim) {
    case 64:
      return Run<T, 64>(stream, args);
    case 80:
      return Run<T, 80>(stream, args);
    case 96:
      return Run<T, 96>(stream, args);
    case 128:
      return Run<T, 128>(stream, args);
    case 256:
      return Run<T, 256>(stream, args);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("PagedDecode: head_dim ", args.head_dim, ", not 64, 80, 96, 128 or 256"));
}

}  // namespace

DecodePlan PlanPagedDecode(absl::Span<const int32_t> lengths, int32_t num_kv_heads) {
  DecodePlan plan;
  for (size_t s = 0; s < lengths.size(); ++s) {
    plan.first_item.push_back(static_cast<int32_t>(plan.items.size()));
    const int32_t num_chunks = (lengths[s] + kDeviceKvChunk - 1) / kDeviceKvChunk;
    for (int32_t head = 0; head < num_kv_heads; ++head) {
      for (int32_t chunk = 0; chunk < num_chunks; ++chunk) {
        plan.items.push_back({static_cast<int32_t>(s), head, chunk});
      }
    }
  }
  return plan;
}

int64_t DecodePartialFloats(int64_t num_items,
                            int32_t num_heads,
                            int32_t num_kv_heads,
                            int32_t head_dim) {
  return num_items * (num_heads / num_kv_heads) * (head_dim + 2);
}

absl::Status PagedDecode(device::Stream stream, const PagedDecodeArgs& args) {
  const auto invalid = [](const char* what, int64_t value) {
    return absl::InvalidArgumentError(absl::StrCat("PagedDecode: ", what, " is ", value));
  };
  if (args.num_sequences <= 0) return invalid("num_sequences", args.num_sequences);
  if (args.num_items <= 0) return invalid("num_items", args.num_items);
  if (args.page_size < 8 || args.page_size > 256 || (args.page_size & (args.page_size - 1)) != 0) {
    return invalid("page_size", args.page_size);
  }
  if (args.num_kv_heads <= 0 || args.num_heads <= 0 || args.num_heads % args.num_kv_heads != 0 ||
      args.num_heads / args.num_kv_heads > kMaxQueryHeadsPerKv) {
    return absl::InvalidArgumentError(absl::StrCat("PagedDecode: ",
                                                   args.num_heads,
                                                   " query heads on ",
                                                   args.num_kv_heads,
                                                   " KV heads: 1 to 16 each"));
  }
  switch (args.dtype) {
    case DType::kBF16:
      return RunHeadDim<device::Bf16>(stream, args);
    case DType::kF16:
      return RunHeadDim<device::F16>(stream, args);
    default:
      return absl::InvalidArgumentError("PagedDecode: elements must be bf16 or f16");
  }
}

}  // namespace paceline::kernels
