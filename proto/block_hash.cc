#include "proto/block_hash.h"

#include <algorithm>
#include <cstring>

namespace paceline {
namespace {

// Two lanes of multiply-and-fold (the 64x64→128 product folded by xor), each with its own odd
// constants; the lanes see the same words and exchange halves at the end of each block.
constexpr uint64_t kMulHigh = 0x9e3779b97f4a7c15ULL;
constexpr uint64_t kMulLow = 0xc2b2ae3d27d4eb4fULL;

uint64_t Fold(uint64_t a, uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

void Absorb(BlockHash& h, uint64_t word) {
  h.high = Fold(h.high ^ word, kMulHigh) + kMulLow;
  h.low = Fold(h.low + word, kMulLow) ^ (h.low << 23 | h.low >> 41);
}

void Finish(BlockHash& h, uint64_t length) {
  Absorb(h, length);
  const uint64_t high = h.high;
  h.high = Fold(h.high ^ h.low, kMulLow ^ length);
  h.low = Fold(h.low + high, kMulHigh ^ length) + 1;
}

void AbsorbBytes(BlockHash& h, std::string_view bytes) {
  for (size_t i = 0; i < bytes.size(); i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data() + i, std::min<size_t>(8, bytes.size() - i));
    Absorb(h, word);
  }
  Finish(h, bytes.size());
}

}  // namespace

BlockHash RootBlockHash(std::string_view model_digest,
                        std::string_view adapter,
                        std::string_view cache_salt) {
  BlockHash h{0x243f6a8885a308d3ULL, 0x13198a2e03707344ULL};  // first digits of pi
  AbsorbBytes(h, model_digest);
  AbsorbBytes(h, adapter);
  AbsorbBytes(h, cache_salt);
  return h;
}

BlockHash NextBlockHash(const BlockHash& parent, absl::Span<const int32_t> token_ids) {
  BlockHash h = parent;
  for (size_t i = 0; i < token_ids.size(); i += 2) {
    uint64_t word = static_cast<uint32_t>(token_ids[i]);
    if (i + 1 < token_ids.size()) {
      word |= static_cast<uint64_t>(static_cast<uint32_t>(token_ids[i + 1])) << 32;
    }
    Absorb(h, word);
  }
  Finish(h, token_ids.size());
  return h;
}

std::vector<BlockHash> HashFullBlocks(const BlockHash& root,
                                      absl::Span<const int32_t> token_ids,
                                      int32_t block_size) {
  std::vector<BlockHash> hashes;
  hashes.reserve(token_ids.size() / block_size);
  BlockHash h = root;
  for (size_t i = 0; i + block_size <= token_ids.size(); i += block_size) {
    h = NextBlockHash(h, token_ids.subspan(i, block_size));
    hashes.push_back(h);
  }
  return hashes;
}

}  // namespace paceline
