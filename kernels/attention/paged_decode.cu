// A block computes one chunk of one KV head for all query heads of its group: they are the rows of
// the tensor cores' 16-row operand, so K and V are read once for all of them. Each of its four
// warps takes one granule of 64 positions in four steps of 16; two stages of asynchronous copies
// bring the next step of all four meanwhile. A second kernel merges a query head's granules. Bound
// by reading K and V.
#include "absl/strings/str_cat.h"
#include "kernels/attention/paged_decode_device.h"
#include "kernels/attention/warp_attention.cuh"

namespace paceline::kernels {
namespace {

constexpr int kWarps = kDeviceKvChunk / kGranule;
constexpr int kThreads = 32 * kWarps;
constexpr int kStages = 2;
constexpr int kSteps = kGranule / kStep;

template <int kHeadDim>
constexpr int kStageElements = 2 * kGranule* kPitch<kHeadDim>;

// The partial result of a query head and granule: weighted sums, maximum, sum of weights.
__device__ __forceinline__ float* Partial(
    const PagedDecodeArgs& args, int64_t item, int granule, int row, int group) {
  return args.partials + ((item * kWarps + granule) * group + row) * (args.head_dim + 2);
}

template <typename T, int kHeadDim>
__global__ void ChunkKernel(PagedDecodeArgs args) {
  const DecodeItem item = args.items[device::BlockPosition().x];
  const int group = args.num_heads / args.num_kv_heads;
  const int begin = item.chunk * kDeviceKvChunk;
  const int length = args.lengths[item.sequence];
  const int num_positions =
      length - begin < kDeviceKvChunk ? length - begin : static_cast<int>(kDeviceKvChunk);
  // Warps with less than a granule to do come along.
  const int num_steps =
      num_positions < kGranule ? (num_positions + kStep - 1) / kStep : static_cast<int>(kSteps);
  auto* const stages = reinterpret_cast<uint16_t*>(device::SharedMemory());
  const int warp = device::ThreadPosition().x / 32;
  const int lane = device::ThreadPosition().x % 32;
  const PagedCache cache{args.kv,
                         args.page_table + int64_t{item.sequence} * args.max_pages,
                         args.page_size,
                         args.num_kv_heads,
                         item.kv_head,
                         kHeadDim};
  const auto copy_step = [&](int step) {
    const auto position_of = [&](int row) {
      return begin + row / kStep * kGranule + step * kStep + row % kStep;
    };
    CopyTile<kHeadDim, kThreads>(
        cache, position_of, length, stages + step % kStages * kStageElements<kHeadDim>);
  };

  uint32_t q[kHeadDim / 16][4];
  const auto* const queries = static_cast<const uint16_t*>(args.q) + item.sequence * args.q_stride +
                              int64_t{item.kv_head} * group * kHeadDim;
  LoadQuery<kHeadDim>([&](int row) { return row < group ? queries + row * kHeadDim : nullptr; }, q);
  RowStates<kHeadDim> state;
  state.Clear();
  copy_step(0);
  for (int step = 0; step < num_steps; ++step) {
    if (step + 1 < num_steps) {
      copy_step(step + 1);
      device::WaitForCopies<1>();
    } else {
      device::WaitForCopies<0>();
    }
    device::SyncThreads();
    const uint16_t* const keys =
        stages + step % kStages * kStageElements<kHeadDim> + kStep * warp * kPitch<kHeadDim>;
    const int seen = num_positions - warp * kGranule - step * kStep;
    AddStep<T, kHeadDim>(
        q, keys, keys + kGranule * kPitch<kHeadDim>, {seen, seen}, args.scale * kLog2E, state);
    device::SyncThreads();
  }
  for (int h = 0; h < 2; ++h) {
    const int row = lane / 4 + 8 * h;
    if (row >= group) continue;
    float* const partial = Partial(args, device::BlockPosition().x, warp, row, group);
    for (int n = 0; n < kHeadDim / 8; ++n) {
      for (int i = 0; i < 2; ++i) partial[n * 8 + lane % 4 * 2 + i] = state.out[n][2 * h + i];
    }
    if (lane % 4 == 0) {
      partial[kHeadDim] = state.max[h];
      partial[kHeadDim + 1] = state.sum[h];
    }
  }
}

// A block merges one query head's granules, in order of position.
template <typename T, int kHeadDim>
__global__ void MergeKernel(PagedDecodeArgs args) {
  const int sequence = device::BlockPosition().x;
  const int head = device::BlockPosition().y;
  const int group = args.num_heads / args.num_kv_heads;
  const int length = args.lengths[sequence];
  const int num_chunks = (length + kDeviceKvChunk - 1) / kDeviceKvChunk;
  const int num_granules = (length + kGranule - 1) / kGranule;
  const int64_t first = args.first_item[sequence] + int64_t{head / group} * num_chunks;
  auto* const out =
      static_cast<uint16_t*>(args.out) + (int64_t{sequence} * args.num_heads + head) * kHeadDim;
  for (int d = device::ThreadPosition().x; d < kHeadDim; d += kThreads) {
    float max = kLowest;
    float value = 0;
    float sum = 0;
    for (int granule = 0; granule < num_granules; ++granule) {
      const float* const part =
          Partial(args, first + granule / kWarps, granule % kWarps, head % group, group);
      const MergeScales scales = MergeGranule(max, part[kHeadDim]);
      value = device::MulAdd(value, scales.keep, part[d] * scales.add);
      sum = device::MulAdd(sum, scales.keep, part[kHeadDim + 1] * scales.add);
      max = scales.max;
    }
    out[d] = T::FromFloat(value / sum);
  }
}

template <typename T, int kHeadDim>
absl::Status Run(device::Stream stream, const PagedDecodeArgs& args) {
  if (auto status = device::Launch(stream,
                                   {args.num_items},
                                   {kThreads},
                                   int64_t{kStages} * kStageElements<kHeadDim> * sizeof(uint16_t),
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
  return num_items * kWarps * (num_heads / num_kv_heads) * (head_dim + 2);
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
  if (args.q_stride < int64_t{args.num_heads} * args.head_dim) {
    return invalid("q_stride", args.q_stride);
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
