#include "server/layer/tensor.h"

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "tests/status_matchers.h"

namespace normd::layer {
namespace {

using absl::StatusCode;
using tests::StatusIs;

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

TEST(TensorTest, ReducesEveryLayoutToOuterChannelsInner) {
  const struct {
    std::vector<int64_t> shape;
    Layout layout;
    NcsShape want;
  } cases[] = {
      {{32, 64}, Layout::kChannelsFirst, {32, 64, 1}},
      {{32, 64}, Layout::kChannelsLast, {32, 64, 1}},
      {{32, 64, 7}, Layout::kChannelsFirst, {32, 64, 7}},
      {{32, 7, 64}, Layout::kChannelsLast, {224, 64, 1}},
      {{2, 3, 5, 7}, Layout::kChannelsFirst, {2, 3, 35}},
      {{2, 5, 7, 3}, Layout::kChannelsLast, {70, 3, 1}},
      {{2, 3, 4, 5, 6}, Layout::kChannelsFirst, {2, 3, 120}},
      {{2, 4, 5, 6, 3}, Layout::kChannelsLast, {240, 3, 1}},
      {{1, 2, 1, 1, 1, 1, 1, 3}, Layout::kChannelsFirst, {1, 2, 3}},
      {{1, 1}, Layout::kChannelsFirst, {1, 1, 1}},
  };
  for (const auto& c : cases) {
    NORMD_ASSERT_OK_AND_ASSIGN(const NcsShape got, ToNcs(c.shape, c.layout, DType::kFloat32));
    EXPECT_EQ(got.outer, c.want.outer) << ShapeToString(c.shape);
    EXPECT_EQ(got.num_channels, c.want.num_channels) << ShapeToString(c.shape);
    EXPECT_EQ(got.inner, c.want.inner) << ShapeToString(c.shape);
  }
}

TEST(TensorTest, RefusesShapesThatAreNone) {
  const struct {
    std::vector<int64_t> shape;
    std::string message;
  } cases[] = {
      {{}, "the tensor has rank 0, want 2 to 8"},
      {{64}, "the tensor has rank 1, want 2 to 8"},
      {{1, 2, 3, 4, 5, 6, 7, 8, 9}, "the tensor has rank 9, want 2 to 8"},
      {{0, 64},
       "has shape [0,64] with extent 0 = 0, want every extent to be at least 1 (nothing can be done with an "
       "empty batch)"},
      {{32, 64, -7}, "has shape [32,64,-7] with extent 2 = -7, want every extent to be at least 1"},
      {{std::numeric_limits<int64_t>::min(), 64}, "with extent 0 = -9223372036854775808"},
      {{kMax, 64}, "whose size in bytes is more than 64 bits can hold"},
      {{1LL << 31, 1LL << 30}, "whose size in bytes is more than 64 bits can hold"},  // Elements fit, bytes do not.
      {{1LL << 32, 1LL << 32}, "whose size in bytes is more than 64 bits can hold"},  // Wraps to 0.
  };
  for (const auto& c : cases) {
    EXPECT_THAT(ToNcs(c.shape, Layout::kChannelsFirst, DType::kFloat32),
                StatusIs(StatusCode::kInvalidArgument, c.message));
  }
  // As large as 16-bit elements can be, and one more.
  EXPECT_THAT(ToNcs({kMax / 2, 1}, Layout::kChannelsFirst, DType::kFloat16), tests::IsOk());
  EXPECT_THAT(ToNcs({kMax / 2 + 1, 1}, Layout::kChannelsFirst, DType::kBFloat16),
              StatusIs(StatusCode::kInvalidArgument, "whose size in bytes is more than 64 bits can hold"));
  // An extent of 0 does not hide an overflow before it.
  EXPECT_THAT(ToNcs({kMax, kMax, 0}, Layout::kChannelsFirst, DType::kFloat32),
              StatusIs(StatusCode::kInvalidArgument, "extent 2 = 0"));
}

TEST(TensorTest, ChecksChannelsAndBytesAgainstTheLayer) {
  const std::vector<char> bytes(2 * 3 * 4 * 8);
  const auto view = [&](DType dtype, std::vector<int64_t> shape, Layout layout, size_t size) {
    return TensorView{dtype, std::move(shape), layout, absl::MakeConstSpan(bytes).subspan(0, size)};
  };
  const struct {
    TensorView tensor;
    std::string message;
  } cases[] = {
      {view(DType::kFloat32, {2, 4, 3}, Layout::kChannelsFirst, 96),
       "layer 'conv1': x has 4 channels, want 3 (shape [2,4,3], channels first: dimension 1)"},
      {view(DType::kFloat32, {2, 3, 4}, Layout::kChannelsLast, 96),
       "layer 'conv1': x has 4 channels, want 3 (shape [2,3,4], channels last)"},
      {view(DType::kFloat32, {2, 3, 4}, Layout::kChannelsFirst, 95),
       "layer 'conv1': x has 95 bytes of data, want 96 for shape [2,3,4] of FLOAT32"},
      {view(DType::kFloat32, {2, 3, 4}, Layout::kChannelsFirst, 0), "x has 0 bytes of data, want 96"},
      {view(DType::kFloat32, {2, 3, 4}, Layout::kChannelsFirst, 192), "x has 192 bytes of data, want 96"},
      {view(DType::kFloat64, {2, 3, 4}, Layout::kChannelsFirst, 96),
       "x has 96 bytes of data, want 192 for shape [2,3,4] of FLOAT64"},
      {view(DType::kFloat16, {2, 3, 4}, Layout::kChannelsFirst, 96),
       "x has 96 bytes of data, want 48 for shape [2,3,4] of FLOAT16"},
      {view(DType::kBFloat16, {2, 3, 4}, Layout::kChannelsFirst, 47),
       "x has 47 bytes of data, want 48 for shape [2,3,4] of BFLOAT16"},
      {view(DType::kFloat32, {3}, Layout::kChannelsFirst, 12), "layer 'conv1': x has rank 1, want 2 to 8"},
      {view(DType::kFloat32, {0, 3}, Layout::kChannelsFirst, 0), "layer 'conv1': x has shape [0,3] with extent 0 = 0"},
  };
  for (const auto& c : cases) {
    EXPECT_THAT(CheckTensor("conv1", "x", c.tensor, 3), StatusIs(StatusCode::kInvalidArgument, c.message));
  }
  for (const auto& [dtype, size] : std::vector<std::pair<DType, size_t>>{
           {DType::kFloat64, 192}, {DType::kFloat32, 96}, {DType::kFloat16, 48}, {DType::kBFloat16, 48}}) {
    EXPECT_THAT(CheckTensor("conv1", "x", view(dtype, {2, 4, 3}, Layout::kChannelsLast, size), 3), tests::IsOk());
  }
}

TEST(TensorTest, AHugeRankStaysOutOfTheMessage) {
  EXPECT_EQ(ShapeToString({32, 64, 7, 7}), "[32,64,7,7]");
  EXPECT_EQ(ShapeToString({}), "[]");
  EXPECT_LT(ShapeToString(std::vector<int64_t>(100'000, 1)).size(), 100U);
}

}  // namespace
}  // namespace normd::layer
