#include "client/cli/histogram.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace normd::cli {
namespace {

constexpr int64_t kGreatest = std::numeric_limits<int64_t>::max();
constexpr int kPerMilles[] = {0, 1, 100, 500, 900, 990, 999, 1000};

LatencyHistogram Of(const std::vector<int64_t>& values) {
  LatencyHistogram histogram;
  for (const int64_t value : values) histogram.Add(value);
  return histogram;
}

// The definition: the least value that at least this part of all do not pass.
int64_t Exact(std::vector<int64_t> values, int per_mille) {
  std::sort(values.begin(), values.end());
  std::size_t at = 0;
  while ((at + 1) * 1000 < values.size() * static_cast<std::size_t>(per_mille)) ++at;
  return values[at];
}

TEST(LatencyHistogramTest, PercentilesAreThoseOfTheSortedValues) {
  std::mt19937_64 random(7);
  std::lognormal_distribution<double> latencies(std::log(3e5), 1.5);
  std::uniform_int_distribution<int64_t> small(0, 600);
  std::uniform_int_distribution<int64_t> any(0, kGreatest);
  std::uniform_int_distribution<int> bits(0, 62);
  std::vector<int64_t> latency_like;
  std::vector<int64_t> narrow;
  std::vector<int64_t> wide;
  for (int i = 0; i < 20000; ++i) {
    latency_like.push_back(static_cast<int64_t>(latencies(random)));
    narrow.push_back(small(random));
    wide.push_back(any(random) >> bits(random));
  }
  const struct {
    const char* name;
    std::vector<int64_t> values;
  } cases[] = {{"latencies", latency_like}, {"narrow", narrow},    {"wide", wide},
               {"one", {123456789}},        {"two", {3, 1000000}}, {"equal", {77777, 77777}}};
  for (const auto& c : cases) {
    const LatencyHistogram histogram = Of(c.values);
    for (const int per_mille : kPerMilles) {
      const auto exact = static_cast<double>(Exact(c.values, per_mille));
      EXPECT_NEAR(static_cast<double>(histogram.AtPerMille(per_mille)), exact, exact / 256)
          << c.name << " at " << per_mille;
    }
    EXPECT_EQ(histogram.count(), c.values.size());
    EXPECT_EQ(histogram.min(), *std::min_element(c.values.begin(), c.values.end())) << c.name;
    EXPECT_EQ(histogram.max(), *std::max_element(c.values.begin(), c.values.end())) << c.name;
    EXPECT_EQ(histogram.AtPerMille(1000), histogram.max()) << c.name;
  }
}

TEST(LatencyHistogramTest, EveryBucketsEdgesAreWithinTheError) {
  // Around each power of two and each step of the buckets above it, three values of equal rank.
  for (int bit = 0; bit < 63; ++bit) {
    for (const int64_t step : {0, 1, 63, 127}) {
      const int64_t middle = (int64_t{1} << bit) + step * (int64_t{1} << std::max(0, bit - 7));
      for (const int64_t value : {middle - 1, middle, middle + 1}) {
        const LatencyHistogram histogram = Of({0, value, value, kGreatest});
        EXPECT_NEAR(static_cast<double>(histogram.AtPerMille(500)), static_cast<double>(value),
                    static_cast<double>(value) / 256)
            << value;
        if (value < 256) {
          EXPECT_EQ(histogram.AtPerMille(500), value);
        }
      }
    }
  }
}

TEST(LatencyHistogramTest, MergingIsAddingBoth) {
  const std::vector<int64_t> one = {5, 70000, 12};
  const std::vector<int64_t> other = {3000000000, 1, 1, 1};
  LatencyHistogram merged = Of(one);
  merged.Merge(Of(other));
  std::vector<int64_t> both = one;
  both.insert(both.end(), other.begin(), other.end());
  const LatencyHistogram want = Of(both);
  for (const int per_mille : kPerMilles) EXPECT_EQ(merged.AtPerMille(per_mille), want.AtPerMille(per_mille));
  EXPECT_EQ(merged.count(), 7);
  EXPECT_EQ(merged.min(), 1);
  EXPECT_EQ(merged.max(), 3000000000);
  EXPECT_DOUBLE_EQ(merged.mean(), want.mean());

  LatencyHistogram from_nothing;
  from_nothing.Merge(merged);
  from_nothing.Merge(LatencyHistogram());
  EXPECT_EQ(from_nothing.min(), 1) << "an empty one has no least value";
  EXPECT_EQ(from_nothing.AtPerMille(500), merged.AtPerMille(500));
}

TEST(LatencyHistogramTest, CountsTheMeanExactly) { EXPECT_DOUBLE_EQ(Of({1000001, 2000002, 6000006}).mean(), 3000003); }

TEST(LatencyHistogramTest, NothingAndLessThanNothing) {
  const LatencyHistogram empty;
  EXPECT_EQ(empty.count(), 0);
  EXPECT_EQ(empty.AtPerMille(500), 0);
  EXPECT_EQ(empty.min(), 0);
  EXPECT_EQ(empty.max(), 0);
  EXPECT_EQ(empty.mean(), 0);
  const LatencyHistogram negative = Of({-5});
  EXPECT_EQ(negative.count(), 1);
  EXPECT_EQ(negative.max(), 0);
  EXPECT_EQ(negative.mean(), 0);
}

TEST(LatencyHistogramTest, ATailHasTenValues) {
  const struct {
    int64_t count;
    int per_mille;
    bool want;
  } cases[] = {{0, 500, false},   {19, 500, false},   {20, 500, true},   {999, 990, false},
               {1000, 990, true}, {9999, 999, false}, {10000, 999, true}};
  for (const auto& c : cases) {
    LatencyHistogram histogram;
    for (int64_t i = 0; i < c.count; ++i) histogram.Add(1);
    EXPECT_EQ(histogram.HasTail(c.per_mille), c.want) << c.count << " at " << c.per_mille;
  }
}

}  // namespace
}  // namespace normd::cli
