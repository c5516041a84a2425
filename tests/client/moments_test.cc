#include "normd/moments.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "tests/non_finite.h"

namespace normd {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using tests::kInf;
using tests::kNaN;

// One channel's values, in two passes in long double.
void ExpectChannel(const Moments& got, size_t c, const std::vector<double>& values) {
  SCOPED_TRACE(c);
  long double sum = 0;
  for (const double v : values) sum += v;
  const long double mean = sum / static_cast<long double>(values.size());
  long double m2 = 0;
  for (const double v : values) m2 += (v - mean) * (v - mean);
  EXPECT_EQ(got.count[c], static_cast<int64_t>(values.size()));
  EXPECT_NEAR(got.mean[c], static_cast<double>(mean), 1e-15 * (1 + std::abs(static_cast<double>(mean))));
  EXPECT_NEAR(got.m2[c], static_cast<double>(m2), 1e-11 * static_cast<double>(m2));
  EXPECT_EQ(got.min[c], *std::min_element(values.begin(), values.end()));
  EXPECT_EQ(got.max[c], *std::max_element(values.begin(), values.end()));
  EXPECT_EQ(got.non_finite_count[c], 0);
}

std::vector<double> SomeValues(size_t count, double around = 3) {
  std::mt19937 random(5);
  std::normal_distribution<double> normal(around, 2);
  std::vector<double> values(count);
  for (double& value : values) value = normal(random);
  return values;
}

TEST(MomentsTest, OfEveryShape) {
  const struct {
    const char* name;
    std::vector<int64_t> shape;
    Layout layout;
    size_t outer, num_channels, inner;
  } cases[] = {
      {"NC", {7, 3}, Layout::kChannelsFirst, 7, 3, 1},
      {"NC, channels last", {7, 3}, Layout::kChannelsLast, 7, 3, 1},
      {"one row", {1, 3}, Layout::kChannelsFirst, 1, 3, 1},
      {"NCHW", {2, 3, 4, 5}, Layout::kChannelsFirst, 2, 3, 20},
      {"NHWC", {2, 4, 5, 3}, Layout::kChannelsLast, 40, 3, 1},
      {"rank 8", {2, 3, 1, 2, 1, 2, 1, 2}, Layout::kChannelsFirst, 2, 3, 8},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    const std::vector<double> x = SomeValues(c.outer * c.num_channels * c.inner);
    const absl::StatusOr<Moments> got = ComputeMoments(TensorView(absl::MakeConstSpan(x), c.shape, c.layout));
    ASSERT_TRUE(got.ok()) << got.status();
    for (size_t channel = 0; channel < c.num_channels; ++channel) {
      std::vector<double> values;
      for (size_t i = 0; i < x.size(); ++i) {
        if (i / c.inner % c.num_channels == channel) values.push_back(x[i]);
      }
      ExpectChannel(*got, channel, values);
    }
  }
}

TEST(MomentsTest, OfEveryType) {
  // Numbers that all types hold.
  const std::vector<double> values = {1, 1.5, -2, 8};
  const std::vector<float> f32(values.begin(), values.end());
  const std::vector<Float16> f16 = {{0x3c00}, {0x3e00}, {0xc000}, {0x4800}};
  std::vector<BFloat16> bf16;
  bf16.reserve(f32.size());
  for (const float v : f32) bf16.push_back({static_cast<uint16_t>(std::bit_cast<uint32_t>(v) >> 16)});
  const std::vector<int64_t> shape = {4, 1};
  for (const TensorView& view :
       {TensorView(absl::MakeConstSpan(values), shape), TensorView(absl::MakeConstSpan(f32), shape),
        TensorView(absl::MakeConstSpan(f16), shape), TensorView(absl::MakeConstSpan(bf16), shape)}) {
    SCOPED_TRACE(NameOf(view.dtype));
    const absl::StatusOr<Moments> got = ComputeMoments(view);
    ASSERT_TRUE(got.ok()) << got.status();
    ExpectChannel(*got, 0, values);
  }
}

// A tensor of many pieces, which begins at any byte; in every type, against the values as it holds them.
TEST(MomentsTest, OfLargeTensorsAtAnyAddress) {
  const struct {
    std::vector<int64_t> shape;
    size_t num_channels, inner;
  } cases[] = {{{3000, 67}, 67, 1}, {{40, 5, 33, 31}, 5, 1023}, {{2, 3, 40'000}, 3, 40'000}, {{500, 7, 11}, 7, 11}};
  for (const auto& c : cases) {
    size_t size = 1;
    for (const int64_t extent : c.shape) size *= static_cast<size_t>(extent);
    std::vector<double> x = SomeValues(size);
    std::vector<float> f32(x.begin(), x.end());
    std::vector<BFloat16> bf16;
    bf16.reserve(size);
    for (const float v : f32) bf16.push_back({static_cast<uint16_t>(std::bit_cast<uint32_t>(v) >> 16)});
    for (const TensorView& view : {TensorView(x, c.shape), TensorView(f32, c.shape), TensorView(bf16, c.shape)}) {
      for (const size_t shift : {0, 1}) {
        SCOPED_TRACE(::testing::Message() << NameOf(view.dtype) << " inner " << c.inner << " shift " << shift);
        std::vector<char> memory(view.data.size() + 1);
        std::copy(view.data.begin(), view.data.end(), memory.begin() + static_cast<std::ptrdiff_t>(shift));
        TensorView shifted = view;
        shifted.data = absl::MakeConstSpan(memory).subspan(shift, view.data.size());
        const absl::StatusOr<Moments> got = ComputeMoments(shifted);
        ASSERT_TRUE(got.ok()) << got.status();
        for (const size_t channel : {size_t{0}, c.num_channels - 1}) {
          std::vector<double> values;
          for (size_t i = 0; i < size; ++i) {
            if (i / c.inner % c.num_channels != channel) continue;
            values.push_back(view.dtype == DType::kFloat64   ? x[i]
                             : view.dtype == DType::kFloat32 ? static_cast<double>(f32[i])
                                                             : static_cast<double>(ToFloat(bf16[i])));
          }
          ExpectChannel(*got, channel, values);
        }
      }
    }
  }
}

// The kernels' library has threads; the SDK does not take them.
TEST(MomentsTest, StartsNoThread) {
  const auto threads = [] {
    const std::filesystem::directory_iterator tasks("/proc/self/task");
    return std::distance(begin(tasks), end(tasks));
  };
  const auto before = threads();
  const std::vector<float> x(1 << 20, 1.0F);
  EXPECT_EQ(ComputeMoments(TensorView(x, {1 << 12, 1 << 8}))->mean[0], 1);
  EXPECT_EQ(threads(), before);
}

TEST(MomentsTest, DoNotCancelFarFromZero) {
  const std::vector<double> x = SomeValues(10'000, 1e6);
  ExpectChannel(*ComputeMoments(TensorView(absl::MakeConstSpan(x), {10'000, 1})), 0, x);
  const std::vector<double> constant(1000, 0.1);
  const Moments moments = *ComputeMoments(TensorView(absl::MakeConstSpan(constant), {1000, 1}));
  EXPECT_EQ(moments.mean[0], 0.1);
  EXPECT_EQ(moments.m2[0], 0);
}

TEST(MomentsTest, NonFiniteValuesAreOnlyCounted) {
  const std::vector<double> x = {1, kNaN, kInf, 3, 5, kNaN, kInf, 7, -kInf};
  const Moments moments = *ComputeMoments(TensorView(absl::MakeConstSpan(x), {3, 3}));
  EXPECT_THAT(moments.count, ElementsAre(2, 2, 0));
  EXPECT_THAT(moments.non_finite_count, ElementsAre(1, 1, 3));
  EXPECT_THAT(moments.mean, ElementsAre(2, 6, 0));
  EXPECT_THAT(moments.m2, ElementsAre(2, 2, 0));
  EXPECT_THAT(moments.min, ElementsAre(1, 5, kInf));
  EXPECT_THAT(moments.max, ElementsAre(3, 7, -kInf));
}

TEST(MomentsTest, NonFiniteValuesAmongManyStayInTheirChannel) {
  constexpr size_t kRows = 3000;
  constexpr size_t kChannels = 20;
  std::vector<double> x = SomeValues(kRows * kChannels);
  const Moments clean = *ComputeMoments(TensorView(x, {kRows, kChannels}));
  x[7] = kNaN;                              // The first value of channel 7.
  x[(kRows - 1) * kChannels + 12] = -kInf;  // The last one of channel 12.
  x[17] = x[kChannels + 17] = 1e200;        // Finite, but their squares are not.
  const Moments moments = *ComputeMoments(TensorView(x, {kRows, kChannels}));
  for (size_t c = 0; c < kChannels; ++c) {
    std::vector<double> values;
    for (size_t row = 0; row < kRows; ++row) {
      if (std::isfinite(x[row * kChannels + c])) values.push_back(x[row * kChannels + c]);
    }
    EXPECT_EQ(moments.non_finite_count[c], static_cast<int64_t>(kRows - values.size()));
    if (c == 7 || c == 12) {
      Moments finite = moments;
      finite.non_finite_count[c] = 0;
      ExpectChannel(finite, c, values);
    } else if (c == 17) {
      EXPECT_EQ(moments.count[c], kRows);
      EXPECT_EQ(moments.max[c], 1e200);
      EXPECT_NEAR(moments.mean[c] / (2e200 / kRows), 1, 1e-12);
    } else {
      EXPECT_EQ(moments.mean[c], clean.mean[c]);
      EXPECT_EQ(moments.m2[c], clean.m2[c]);
    }
  }
}

TEST(MomentsTest, MergeInAnySplitAndOrder) {
  constexpr int64_t kRows = 200;
  const std::vector<double> x = SomeValues(kRows * 2, 1000);
  const Moments want = *ComputeMoments(TensorView(absl::MakeConstSpan(x), {kRows, 2}));
  std::mt19937 random(3);
  for (const int64_t rows : {1, 7, 40, 200}) {
    std::vector<Moments> parts;
    for (int64_t row = 0; row < kRows; row += rows) {
      const int64_t taken = std::min(rows, kRows - row);
      parts.push_back(*ComputeMoments(TensorView(absl::MakeConstSpan(x).subspan(row * 2, taken * 2), {taken, 2})));
    }
    std::shuffle(parts.begin(), parts.end(), random);
    Moments merged;
    for (const Moments& part : parts) ASSERT_TRUE(merged.Merge(part).ok());
    EXPECT_EQ(merged.count, want.count);
    EXPECT_EQ(merged.min, want.min);
    EXPECT_EQ(merged.max, want.max);
    for (size_t c = 0; c < 2; ++c) {
      EXPECT_NEAR(merged.mean[c], want.mean[c], 1e-12 * std::abs(want.mean[c]));
      EXPECT_NEAR(merged.m2[c], want.m2[c], 1e-11 * want.m2[c]);
    }
  }
}

TEST(MomentsTest, MergeWhereOneHasNothingOrKnowsLess) {
  const Moments odd{.count = {0, 2}, .mean = {kNaN, 1}, .m2 = {-1, 8}};
  const Moments full{
      .count = {3, 3}, .mean = {5, 2}, .m2 = {6, 0}, .min = {4, 2}, .max = {7, 2}, .non_finite_count = {1, 0}};
  for (const bool swap : {false, true}) {
    Moments merged = swap ? full : odd;
    ASSERT_TRUE(merged.Merge(swap ? odd : full).ok());
    EXPECT_THAT(merged.count, ElementsAre(3, 5));
    EXPECT_EQ(merged.mean[0], 5);
    EXPECT_DOUBLE_EQ(merged.mean[1], 8.0 / 5);
    EXPECT_EQ(merged.m2[0], 6);
    EXPECT_DOUBLE_EQ(merged.m2[1], 8 + 2 * 3 / 5.0);
    EXPECT_THAT(merged.min, IsEmpty());
    EXPECT_THAT(merged.max, IsEmpty());
    EXPECT_THAT(merged.non_finite_count, ElementsAre(1, 0));
  }
  Moments same = full;
  ASSERT_TRUE(same.Merge({}).ok());
  EXPECT_EQ(same.mean, full.mean);
}

TEST(MomentsTest, BadInputIsNamed) {
  const std::vector<double> x = {1, 2, 3};
  for (const auto& [shape, message] : std::vector<std::pair<std::vector<int64_t>, std::string>>{
           {{3}, "x of shape [3] and 24 bytes of float64: want rank 2 to 8 and 24 bytes"},
           {{2, 2}, "x of shape [2, 2] and 24 bytes of float64: want rank 2 to 8 and 32 bytes"},
           {{-1, 3}, "[-1, 3]"}}) {
    const absl::Status status = ComputeMoments(TensorView(absl::MakeConstSpan(x), shape)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
  const absl::StatusOr<Moments> nothing = ComputeMoments(TensorView(absl::Span<const double>(), {0, 3}));
  ASSERT_TRUE(nothing.ok());
  EXPECT_THAT(nothing->count, ElementsAre(0, 0, 0));

  Moments moments{.count = {1}, .mean = {1}, .m2 = {0}};
  for (const Moments& other :
       {Moments{.count = {1, 1}, .mean = {1, 1}, .m2 = {0, 0}}, Moments{.count = {1}, .mean = {1}, .m2 = {}},
        Moments{.count = {1}, .mean = {1}, .m2 = {0}, .min = {0, 0}}}) {
    EXPECT_EQ(moments.Merge(other).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(moments.count, Each(1));
  }
}

}  // namespace
}  // namespace normd
