#include "worker/sample/philox_block.h"

#include <algorithm>

namespace paceline::worker {
namespace {

// Sixteen generators side by side in plain loops, which compilers turn into vector code.
bool WordsAtLeast(const uint32_t* first,
                  const uint32_t* first_key,
                  uint32_t cutoff,
                  uint32_t words[4][kPhiloxBlockCounters]) {
  uint32_t key[2] = {first_key[0], first_key[1]};
  for (int i = 0; i < kPhiloxBlockCounters; ++i) {
    words[0][i] = first[0] + static_cast<uint32_t>(i);
    words[1][i] = first[1];
    words[2][i] = first[2];
    words[3][i] = first[3];
  }
  for (int round = 0; round < kPhiloxRounds; ++round) {
    for (int i = 0; i < kPhiloxBlockCounters; ++i) {
      const uint64_t product0 = uint64_t{kPhiloxMultiplier0} * words[0][i];
      const uint64_t product1 = uint64_t{kPhiloxMultiplier1} * words[2][i];
      words[0][i] = static_cast<uint32_t>(product1 >> 32) ^ words[1][i] ^ key[0];
      words[1][i] = static_cast<uint32_t>(product1);
      words[2][i] = static_cast<uint32_t>(product0 >> 32) ^ words[3][i] ^ key[1];
      words[3][i] = static_cast<uint32_t>(product0);
    }
    key[0] += kPhiloxWeyl0;
    key[1] += kPhiloxWeyl1;
  }
  uint32_t largest = 0;
  for (int lane = 0; lane < 4; ++lane) {
    for (int i = 0; i < kPhiloxBlockCounters; ++i) largest = std::max(largest, words[lane][i]);
  }
  return largest >= cutoff;
}

float Max64(const float* values) {
  float best[4] = {values[0], values[1], values[2], values[3]};
  for (int i = 4; i < kPhiloxBlockTokens; i += 4) {
    for (int j = 0; j < 4; ++j) best[j] = best[j] < values[i + j] ? values[i + j] : best[j];
  }
  return std::max(std::max(best[0], best[1]), std::max(best[2], best[3]));
}

}  // namespace

namespace {
const PhiloxBlockTable kPortable = {&WordsAtLeast, &Max64};
}  // namespace

const kernels::IsaTables<PhiloxBlockTable> kPhiloxBlock = {
    &kPortable, &kPhiloxBlockAvx2, &kPhiloxBlockAvx512};

}  // namespace paceline::worker
