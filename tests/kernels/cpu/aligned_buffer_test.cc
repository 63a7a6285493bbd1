#include "kernels/cpu/aligned_buffer.h"

#include <algorithm>
#include <utility>

#include "gtest/gtest.h"

namespace paceline::kernels {
namespace {

TEST(AlignedBufferTest, IsAlignedZeroedAndWritable) {
  for (size_t bytes :
       {size_t{1}, size_t{100}, size_t{4097}, size_t{2} << 20, (size_t{5} << 20) + 3}) {
    auto buffer = AlignedBuffer::Allocate(bytes);
    ASSERT_TRUE(buffer.ok());
    EXPECT_EQ(buffer->size(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u);
    EXPECT_EQ(std::count(buffer->data(), buffer->data() + bytes, 0), static_cast<int64_t>(bytes));
    buffer->data()[bytes - 1] = 1;
  }
}

TEST(AlignedBufferTest, EmptyHasNoData) {
  auto buffer = AlignedBuffer::Allocate(0);
  ASSERT_TRUE(buffer.ok());
  EXPECT_EQ(buffer->data(), nullptr);
}

TEST(AlignedBufferTest, MovesItsMemory) {
  auto buffer = AlignedBuffer::Allocate(3 << 20);
  uint8_t* const data = buffer->data();
  AlignedBuffer moved(*std::move(buffer));
  AlignedBuffer assigned;
  assigned = std::move(moved);
  EXPECT_EQ(assigned.data(), data);
  EXPECT_EQ(assigned.size(), size_t{3} << 20);
}

TEST(AlignedBufferTest, AbsurdSizesAreResourceExhausted) {
  EXPECT_EQ(AlignedBuffer::Allocate(SIZE_MAX).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(AlignedBuffer::Allocate(size_t{1} << 60).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace paceline::kernels
