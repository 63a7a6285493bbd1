#include "worker/weights/weight_loader.h"

#include <memory>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/tiny_model.h"

namespace paceline::worker {
namespace {

using testing::HasSubstr;

constexpr char kTensor[] = "blk.0.attn_output.weight";

class WeightLoaderTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = testing::TempDir() + "weight_loader_test.gguf";
    ASSERT_TRUE(model::WriteTinyModel(path_).ok());  // 64 columns of Q4_1
    file_ = *model::GgufFile::Open(path_);
    loader_ = std::make_unique<WeightLoader>(
        *file_, kernels::ComputeType::kInt8, pool_, WeightLoader::Progress());
  }
  void TearDown() override { std::remove(path_.c_str()); }

  absl::StatusOr<kernels::PackedMatrix> Columns(int64_t begin, int64_t end) {
    TensorRows part(kTensor);
    part.first_column = begin;
    part.end_column = end;
    return loader_->Matrix({part});
  }

  std::string path_;
  kernels::ThreadPool pool_{1, false};
  std::unique_ptr<model::GgufFile> file_;
  std::unique_ptr<WeightLoader> loader_;
};

TEST_F(WeightLoaderTest, ColumnsAreThoseOfTheWholeMatrix) {
  const auto whole = loader_->Matrix({TensorRows(kTensor)});
  const auto right = Columns(32, 64);
  ASSERT_TRUE(whole.ok() && right.ok());
  EXPECT_EQ(right->k(), 32);
  EXPECT_EQ(right->n(), whole->n());
  float row[64];
  float part[32];
  for (int64_t i = 0; i < whole->n(); ++i) {
    kernels::UnpackRow(*whole, i, row);
    kernels::UnpackRow(*right, i, part);
    for (int64_t c = 0; c < 32; ++c) ASSERT_EQ(part[c], row[32 + c]) << i << " " << c;
  }
}

TEST_F(WeightLoaderTest, ColumnsThatCutBlocksAreRefusedWithWhatHelps) {
  for (const auto& [begin, end] : {std::pair{0, 48}, {48, 64}, {32, 96}}) {
    const absl::Status status = Columns(begin, end).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(kTensor));
    EXPECT_THAT(std::string(status.message()), HasSubstr("use --tensor-parallel-mode exact"));
  }
}

}  // namespace
}  // namespace paceline::worker
