// What ranks do with gathered pieces, for CUDA, in emulation.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/exchange/pieces_device.h"
#include "tests/kernels/emulation/device_array.h"

namespace paceline::kernels {
namespace {

// Every rank's columns hold what says whose they are.
void ExpectPlaced(int64_t rows, const std::vector<int64_t>& widths, int64_t spare) {
  DevicePlaceColumnsArgs args{.rows = rows, .num_ranks = static_cast<int32_t>(widths.size())};
  const int64_t widest = *std::max_element(widths.begin(), widths.end());
  args.piece_bytes = rows * widest + spare;
  std::vector<char> pieces(args.num_ranks * args.piece_bytes, '\x7f');
  std::mt19937 random(1);
  std::vector<std::vector<char>> expected(rows);
  int64_t total = 0;
  for (int32_t rank = 0; rank < args.num_ranks; ++rank) {
    total += widths[rank];
    args.end_bytes[rank] = total;
    char* const piece = pieces.data() + rank * args.piece_bytes;
    for (int64_t i = 0; i < rows * widths[rank]; ++i) piece[i] = static_cast<char>(random());
    for (int64_t row = 0; row < rows; ++row) {
      const char* const from = piece + row * widths[rank];
      expected[row].insert(expected[row].end(), from, from + widths[rank]);
    }
  }
  const DeviceArray<char> on_device(pieces);
  DeviceArray<char> all(rows * total);
  args.pieces = &on_device[0];
  args.all = all.data();
  ASSERT_TRUE(DevicePlaceColumns(nullptr, args).ok());
  std::vector<char> flat;
  for (const std::vector<char>& row : expected) flat.insert(flat.end(), row.begin(), row.end());
  EXPECT_EQ(all.ToVector(), flat) << rows << " rows of " << total;
}

TEST(PiecesTest, ColumnsAreSideBySide) {
  for (const int64_t rows : {1, 2, 37}) {
    ExpectPlaced(rows, {32, 32}, 0);
    ExpectPlaced(rows, {80, 64, 48}, 0);
    ExpectPlaced(rows, {16, 0, 640, 16}, 32);
    ExpectPlaced(rows, {6, 2, 34}, 0);    // no whole units of 16 bytes
    ExpectPlaced(rows, {32, 32, 16}, 2);  // pieces that begin anywhere
    ExpectPlaced(rows, std::vector<int64_t>(kMaxPieces, 16), 0);
  }
}

TEST(PiecesTest, SumsAreInOrderOfRank) {
  std::mt19937 random(2);
  for (const int32_t num_ranks : {1, 2, 3, 8}) {
    constexpr int64_t kCount = 1000;
    std::vector<float> pieces(num_ranks * kCount);
    for (float& value : pieces) {
      value = std::ldexp(static_cast<float>(random()) / 4294967296.0F - 0.5F, random() % 24);
    }
    std::vector<float> expected(pieces.begin(), pieces.begin() + kCount);
    for (int32_t rank = 1; rank < num_ranks; ++rank) {
      for (int64_t i = 0; i < kCount; ++i) expected[i] += pieces[rank * kCount + i];
    }
    const DeviceArray<float> on_device(pieces);
    DeviceArray<float> out(kCount);
    ASSERT_TRUE(DeviceSumPieces(nullptr, &on_device[0], num_ranks, kCount, out.data()).ok());
    EXPECT_EQ(std::memcmp(&out[0], expected.data(), kCount * sizeof(float)), 0) << num_ranks;
  }
}

TEST(PiecesTest, RefusesWhatDoesNotFit) {
  DeviceArray<char> memory(256);
  DevicePlaceColumnsArgs args{.pieces = memory.data(),
                              .piece_bytes = 64,
                              .all = memory.data() + 128,
                              .rows = 2,
                              .num_ranks = 2,
                              .end_bytes = {32, 64}};
  EXPECT_TRUE(DevicePlaceColumns(nullptr, args).ok());
  args.rows = 3;
  EXPECT_TRUE(absl::IsInvalidArgument(DevicePlaceColumns(nullptr, args))) << "small pieces";
  args.rows = 0;
  EXPECT_TRUE(absl::IsInvalidArgument(DevicePlaceColumns(nullptr, args))) << "no rows";
  args.rows = 2;
  args.num_ranks = kMaxPieces + 1;
  EXPECT_TRUE(absl::IsInvalidArgument(DevicePlaceColumns(nullptr, args))) << "many ranks";
  args.num_ranks = 2;
  args.end_bytes[0] = 31;
  EXPECT_TRUE(absl::IsInvalidArgument(DevicePlaceColumns(nullptr, args))) << "odd columns";
  EXPECT_TRUE(absl::IsInvalidArgument(DeviceSumPieces(nullptr, nullptr, 0, 1, nullptr)));
}

}  // namespace
}  // namespace paceline::kernels
