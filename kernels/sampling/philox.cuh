// Philox4x32-10 on the device: the noise of worker/sample/gumbel.h, word for word.
#ifndef PACELINE_KERNELS_SAMPLING_PHILOX_CUH_
#define PACELINE_KERNELS_SAMPLING_PHILOX_CUH_

#include "device_backend.cuh"

namespace paceline::kernels {

struct PhiloxWords {
  uint32_t words[4];
};

__device__ __forceinline__ PhiloxWords Philox(PhiloxWords counter, uint64_t seed) {
  auto key0 = static_cast<uint32_t>(seed);
  auto key1 = static_cast<uint32_t>(seed >> 32);
  uint32_t(&c)[4] = counter.words;
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * c[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57} * c[2];
    c[0] = static_cast<uint32_t>(product1 >> 32) ^ c[1] ^ key0;
    c[1] = static_cast<uint32_t>(product1);
    c[2] = static_cast<uint32_t>(product0 >> 32) ^ c[3] ^ key1;
    c[3] = static_cast<uint32_t>(product0);
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return counter;
}

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_SAMPLING_PHILOX_CUH_
