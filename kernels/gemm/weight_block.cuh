// What the matmul kernels share, and so give an output the same bits:
//
// K is cut into at most kParts parts of whole blocks of 32 columns. A part is summed block by block
// from 0, and the parts' sums are added in order. Unquantised weights are multiplied by
// mma.m16n8k16 into the sum, two for a block. Quantised ones are multiplied as the whole numbers
// that they are, exactly; a block's sum is then scaled in float32, and its minimum is multiplied by
// the sum of the block's inputs, which an operand of ones gives in the same layout.
#ifndef PACELINE_KERNELS_GEMM_WEIGHT_BLOCK_CUH_
#define PACELINE_KERNELS_GEMM_WEIGHT_BLOCK_CUH_

#include "kernels/device/element.cuh"
#include "kernels/gemm/matmul_device.h"

namespace paceline::kernels {

constexpr int kGroupRows = 16;  // of w, the rows of the left operand
constexpr int kTileRows = 8;    // of x, the columns of the right operand
constexpr int kParts = 8;

struct PartOfK {
  int begin;  // blocks
  int end;
};
__device__ __forceinline__ int BlocksOfPart(int num_blocks) {
  return (num_blocks + kParts - 1) / kParts;
}
__device__ __forceinline__ PartOfK GetPart(int part, int num_blocks) {
  const int blocks = BlocksOfPart(num_blocks);
  const int begin = part * blocks < num_blocks ? part * blocks : num_blocks;
  return {begin, begin + blocks < num_blocks ? begin + blocks : num_blocks};
}

struct alignas(8) Words2 {
  uint32_t words[2];
};
struct alignas(16) Words4 {
  uint32_t words[4];
};

// Two numbers in [0, 16), from bits 4 i and 16 + 4 i: exact, added to a number with a last place
// of 1 which is then taken away.
template <typename T>
__device__ __forceinline__ uint32_t NibblePair(uint32_t word, int i, uint32_t minus) {
  return T::MulAddPairs((word >> (4 * i) & 0x000f000f) | T::kNibbleBase, T::kOnes, minus);
}

// ---- What a lane holds of a block of weights, one type a format: Load, from where the block's
// values and scales are; the left operand of each half of the block; how it is taken into its
// part's sum.

template <typename T>
struct HalfBlock {
  static constexpr int kValueBytes = 1024;
  static constexpr int kScaleBytes = 0;
  static constexpr bool kScaled = false;
  static constexpr bool kHasMinimum = false;

  __device__ void Load(const char* from, const char*, int lane) {
    values[0] = reinterpret_cast<const Words4*>(from)[lane];
    values[1] = reinterpret_cast<const Words4*>(from)[32 + lane];
  }
  __device__ void Fragment(int half, uint32_t (&a)[4]) const {
    for (int i = 0; i < 4; ++i) a[i] = values[half].words[i];
  }
  __device__ void Scale(const float (&)[4], const float (&)[4], float (&)[4]) const {}

  Words4 values[2];
};

template <typename T>
struct Q8Block {
  static constexpr int kValueBytes = 512;
  static constexpr int kScaleBytes = 32;
  static constexpr bool kScaled = true;
  static constexpr bool kHasMinimum = false;

  __device__ void Load(const char* values, const char* scales, int lane) {
    nibbles = reinterpret_cast<const Words4*>(values)[lane];
    for (int h = 0; h < 2; ++h) {
      d[h] = reinterpret_cast<const uint16_t*>(scales)[lane / 4 + 8 * h];
    }
  }
  __device__ void Fragment(int half, uint32_t (&a)[4]) const {
    for (int i = 0; i < 4; ++i) {
      const uint32_t low = NibblePair<T>(nibbles.words[2 * half], i, T::kMinusBase);
      const uint32_t high_less_8 = NibblePair<T>(nibbles.words[2 * half + 1], i, T::kMinusBase8);
      a[i] = T::MulAddPairs(high_less_8, T::kSixteens, low);
    }
  }
  __device__ void Scale(const float (&products)[4], const float (&)[4], float (&sum)[4]) const {
    for (int i = 0; i < 4; ++i) {
      sum[i] = device::MulAdd(device::F16ToFloat(d[i / 2]), products[i], sum[i]);
    }
  }

  Words4 nibbles;
  uint16_t d[2];  // of the lane's two rows
};

template <typename T>
struct Q4Block {
  static constexpr int kValueBytes = 256;
  static constexpr int kScaleBytes = 64;
  static constexpr bool kScaled = true;
  static constexpr bool kHasMinimum = true;

  __device__ void Load(const char* values, const char* from, int lane) {
    nibbles = reinterpret_cast<const Words2*>(values)[lane];
    for (int h = 0; h < 2; ++h) {
      scales[h] = reinterpret_cast<const uint32_t*>(from)[lane / 4 + 8 * h];
    }
  }
  __device__ void Fragment(int half, uint32_t (&a)[4]) const {
    for (int i = 0; i < 4; ++i) a[i] = NibblePair<T>(nibbles.words[half], i, T::kMinusBase);
  }
  __device__ void Scale(const float (&products)[4],
                        const float (&inputs)[4],
                        float (&sum)[4]) const {
    for (int i = 0; i < 4; ++i) {
      const float d = device::F16ToFloat(static_cast<uint16_t>(scales[i / 2]));
      const float m = device::F16ToFloat(static_cast<uint16_t>(scales[i / 2] >> 16));
      sum[i] = device::MulAdd(m, inputs[i], device::MulAdd(d, products[i], sum[i]));
    }
  }

  Words2 nibbles;
  uint32_t scales[2];  // d, m of the lane's two rows
};

// Takes a block into a tile's sums. `a`: the block's left operands, `x`: what the lane has of a row
// of x, `inputs`: the sums of its columns, with a minimum.
template <typename T, typename Block>
__device__ __forceinline__ void AddBlock(const Block& block,
                                         const uint32_t (&a)[2][4],
                                         const Words4& x,
                                         const float (&inputs)[4],
                                         float (&sum)[4]) {
  if constexpr (Block::kScaled) {
    float products[4] = {};
    T::Mma(products, a[0], {x.words[0], x.words[1]});
    T::Mma(products, a[1], {x.words[2], x.words[3]});
    block.Scale(products, inputs, sum);
  } else {
    T::Mma(sum, a[0], {x.words[0], x.words[1]});
    T::Mma(sum, a[1], {x.words[2], x.words[3]});
  }
}

template <typename T>
__device__ __forceinline__ void SumInputs(const Words4& x, float (&inputs)[4]) {
  const uint32_t ones[4] = {T::kOnes, T::kOnes, T::kOnes, T::kOnes};
  for (float& input : inputs) input = 0;
  T::Mma(inputs, ones, {x.words[0], x.words[1]});
  T::Mma(inputs, ones, {x.words[2], x.words[3]});
}

// Writes an output, `sum` over all parts.
template <typename T>
__device__ __forceinline__ void StoreOutput(const DeviceMatmulArgs& args,
                                            int64_t row,
                                            int64_t n,
                                            float sum) {
  if (args.bias != nullptr) sum += args.bias[n];
  const int64_t at = row * args.y_stride + n;
  if (args.y_dtype != DType::kF32) {
    static_cast<uint16_t*>(args.y)[at] = T::FromFloat(sum);
  } else {
    float* const y = static_cast<float*>(args.y) + at;
    *y = args.accumulate ? *y + sum : sum;
  }
}

// Calls run.template operator()<T, Block>() for the types of args. REQUIRES: they fit together.
template <typename Run>
absl::Status ForTypes(const DeviceMatmulArgs& args, Run run) {
  const auto for_element = [&]<typename T>() -> absl::Status {
    switch (args.w.format) {
      case DeviceFormat::kBF16:
      case DeviceFormat::kF16:
        return run.template operator()<T, HalfBlock<T>>();
      case DeviceFormat::kQ8:
        return run.template operator()<T, Q8Block<T>>();
      case DeviceFormat::kQ4:
        return run.template operator()<T, Q4Block<T>>();
    }
    return absl::InvalidArgumentError("DeviceMatmul: unknown format");
  };
  return args.dtype == DType::kBF16 ? for_element.template operator()<device::Bf16>()
                                    : for_element.template operator()<device::F16>();
}

// tiled_matmul.cu: for many rows.
absl::Status RunTiledMatmul(device::Stream stream, const DeviceMatmulArgs& args);

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_GEMM_WEIGHT_BLOCK_CUH_
