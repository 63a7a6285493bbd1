#include "kernels/emulation/warp_group.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

namespace paceline::kernels::emulation {
namespace {

constexpr int32_t kDepth = 16;  // of a product, along K
constexpr int32_t kPieceBytes = 16;
constexpr int32_t kRowBytes = 128;
constexpr unsigned char kPoison = 0xff;

using Piece = std::array<uint16_t, kPieceBytes / 2>;

// Where the right operand's pieces lie: [kDepth][tiles] along N if transposed, else [8 tiles][2]
// along K.
std::vector<uint32_t> Addresses(const GroupProduct& product) {
  const auto field = [&](int shift) {
    return static_cast<uint32_t>(product.b >> shift & 0x3fff) << 4;
  };
  const uint32_t start = field(0);
  const uint32_t leading = field(16);
  const uint32_t stride = field(32);
  std::vector<uint32_t> addresses;
  const auto add = [&](uint32_t row, uint32_t bytes) {
    const uint32_t address = start + row / 8 * stride + row % 8 * kRowBytes + bytes;
    addresses.push_back(address ^ (address >> 7 & 7) << 4);
  };
  if (product.transposed) {
    for (int32_t k = 0; k < kDepth; ++k) {
      for (int32_t tile = 0; tile < product.tiles; ++tile) {
        add(k, tile / 8 * leading + tile % 8 * kPieceBytes);
      }
    }
  } else {
    for (int32_t n = 0; n < 8 * product.tiles; ++n) {
      for (int32_t half = 0; half < 2; ++half) add(n, half * kPieceBytes);
    }
  }
  return addresses;
}

// What all threads of a group have of a product that was started.
struct Shared {
  Location location;
  std::vector<uint32_t> addresses;
  std::vector<Piece> b;  // as the shared memory was
};

struct Pending {
  std::shared_ptr<const Shared> shared;
  const uint32_t* a;
  std::array<uint32_t, 4> a_bits;
  float* sums;
  std::vector<float> result;
};

// A thread's.
struct Products {
  bool is_fenced = false;
  std::vector<Pending> collected;
  std::deque<std::vector<Pending>> groups;

  // The latest product with these sums, if there is one.
  const Pending* Latest(const float* sums) const {
    const auto in = [&](const std::vector<Pending>& group) -> const Pending* {
      const auto it = std::find_if(
          group.rbegin(), group.rend(), [&](const Pending& p) { return p.sums == sums; });
      return it == group.rend() ? nullptr : &*it;
    };
    if (const Pending* found = in(collected); found != nullptr) return found;
    for (auto group = groups.rbegin(); group != groups.rend(); ++group) {
      if (const Pending* found = in(*group); found != nullptr) return found;
    }
    return nullptr;
  }
};

Products& Mine() {
  auto& all = BlockState<std::vector<Products>>();
  const auto thread = static_cast<size_t>(ThreadPosition().x);
  if (all.size() <= thread) all.resize(thread + 1);
  return all[thread];
}

Piece Read(const char* from) {
  Piece piece;
  std::memcpy(piece.data(), from, sizeof(piece));
  return piece;
}

struct Lane {
  const GroupProduct* product;
  Products* products;
};

// [kDepth][8 tiles]
std::vector<float> RightOperand(const GroupProduct& product, const std::vector<Piece>& pieces) {
  const int32_t columns = 8 * product.tiles;
  std::vector<float> b(kDepth * columns);
  for (size_t i = 0; i < pieces.size(); ++i) {
    for (int32_t j = 0; j < 8; ++j) {
      const auto at = static_cast<int32_t>(i);
      const int32_t k = product.transposed ? at / product.tiles : at % 2 * 8 + j;
      const int32_t n = product.transposed ? at % product.tiles * 8 + j : at / 2;
      b[k * columns + n] = product.to_float(pieces[i][j]);
    }
  }
  return b;
}

void Start(const GroupLanes& lanes, const Location& location) {
  const auto lane = [&](int i) -> const Lane& { return *static_cast<const Lane*>(lanes[i]); };
  const GroupProduct& product = *lane(0).product;
  for (int i = 0; i < kGroupSize; ++i) {
    const GroupProduct& other = *lane(i).product;
    Check(other.b == product.b && other.accumulate == product.accumulate,
          "GroupMma: threads of a warp group with different descriptors",
          location);
    Check(lane(i).products->is_fenced, "GroupMma: no FenceGroupMmas before it", location);
  }
  Check(product.b >> 62 == 1 && (product.b >> 46 & 0xffff) == 0,
        "GroupMma: not a descriptor with the 128-byte swizzle",
        location);
  auto shared = std::make_shared<Shared>();
  shared->location = location;
  shared->addresses = Addresses(product);
  std::vector<Piece> seen;
  for (const uint32_t address : shared->addresses) {
    Check(IsShared(address, kPieceBytes), "GroupMma: outside the shared memory", location);
    shared->b.push_back(Read(AtAddress(address)));
    seen.push_back(Read(AtAddressForProducts(address)));
  }
  const std::vector<float> b = RightOperand(product, seen);
  const int32_t columns = 8 * product.tiles;

  for (int i = 0; i < kGroupSize; i += 4) {
    // Four lanes have two rows between them.
    float a[2][kDepth];
    std::vector<float> sums[2] = {std::vector<float>(columns), std::vector<float>(columns)};
    for (int j = 0; j < 4; ++j) {
      const GroupProduct& own = *lane(i + j).product;
      for (int r = 0; r < 4; ++r) {
        for (int half = 0; half < 2; ++half) {
          a[r % 2][r / 2 * 8 + j * 2 + half] =
              own.to_float(static_cast<uint16_t>(own.a[r] >> 16 * half));
        }
      }
      if (!own.accumulate) continue;
      const Pending* const before = lane(i + j).products->Latest(own.sums);
      const float* const from = before == nullptr ? own.sums : before->result.data();
      for (int32_t t = 0; t < 4 * own.tiles; ++t) {
        sums[t % 4 / 2][t / 4 * 8 + j * 2 + t % 2] = from[t];
      }
    }
    for (int row = 0; row < 2; ++row) {
      for (int k = 0; k < kDepth; ++k) {
        const float factor = a[row][k];
        const float* const b_row = b.data() + k * columns;
        for (int32_t n = 0; n < columns; ++n) sums[row][n] += factor * b_row[n];
      }
    }
    for (int j = 0; j < 4; ++j) {
      const GroupProduct& own = *lane(i + j).product;
      Pending& pending = lane(i + j).products->collected.emplace_back();
      pending.shared = shared;
      pending.a = own.a;
      std::copy_n(own.a, 4, pending.a_bits.begin());
      pending.sums = own.sums;
      for (int32_t t = 0; t < 4 * own.tiles; ++t) {
        pending.result.push_back(sums[t % 4 / 2][t / 4 * 8 + j * 2 + t % 2]);
      }
      std::memset(own.sums, kPoison, pending.result.size() * sizeof(float));
    }
  }
}

void CheckUnchanged(const Pending& pending) {
  const Location& location = pending.shared->location;
  Check(std::equal(pending.a_bits.begin(), pending.a_bits.end(), pending.a),
        "GroupMma: its left operand was changed before the wait",
        location);
  if (ThreadPosition().x % 32 != 0) return;
  for (size_t i = 0; i < pending.shared->addresses.size(); ++i) {
    Check(Read(AtAddress(pending.shared->addresses[i])) == pending.shared->b[i],
          "GroupMma: its operand in shared memory was changed before the wait",
          location);
  }
}

bool IsPoison(const float* sums, size_t count) {
  const auto* const bytes = reinterpret_cast<const unsigned char*>(sums);
  return std::all_of(
      bytes, bytes + count * sizeof(float), [](unsigned char byte) { return byte == kPoison; });
}

}  // namespace

void StartProduct(const GroupProduct& product, const Location& location) {
  Lane mine{&product, nullptr};
  Mine();
  MeetGroup("GroupMma", location, &mine, [&](const GroupLanes& lanes) {
    auto& all = BlockState<std::vector<Products>>();
    for (int i = 0; i < kGroupSize; ++i) {
      static_cast<Lane*>(lanes[i])->products = &all[lanes.first_thread + i];
    }
    Start(lanes, location);
  });
}

void FenceProducts(const Location& location) {
  MeetWarp("FenceGroupMmas", location, nullptr, [](Lanes) {});
  Mine().is_fenced = true;
}

void CommitProducts(const Location& location) {
  MeetWarp("CommitGroupMmas", location, nullptr, [](Lanes) {});
  Products& mine = Mine();
  mine.groups.push_back(std::move(mine.collected));
  mine.collected.clear();
}

void WaitForProducts(int32_t left, const Location& location) {
  MeetWarp("WaitForGroupMmas", location, nullptr, [](Lanes) {});
  Products& mine = Mine();
  mine.is_fenced = false;
  std::vector<Pending> done;
  while (static_cast<int32_t>(mine.groups.size()) > left) {
    std::move(mine.groups.front().begin(), mine.groups.front().end(), std::back_inserter(done));
    mine.groups.pop_front();
  }
  std::vector<const float*> written;  // by later products
  for (auto pending = done.rbegin(); pending != done.rend(); ++pending) {
    CheckUnchanged(*pending);
    if (mine.Latest(pending->sums) != nullptr ||
        std::find(written.begin(), written.end(), pending->sums) != written.end()) {
      continue;
    }
    Check(IsPoison(pending->sums, pending->result.size()),
          "GroupMma: its sums were written before the wait",
          pending->shared->location);
    std::copy(pending->result.begin(), pending->result.end(), pending->sums);
    written.push_back(pending->sums);
  }
}

}  // namespace paceline::kernels::emulation
