#include "server/registry/activity.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/non_finite.h"

namespace normd::registry {
namespace {

using tests::kInf;

class DriftTest : public ::testing::Test {
 protected:
  Drift Measure(const std::vector<double>& mean, const std::vector<double>& var,
                const std::vector<int64_t>& skipped = {}) const {
    return MeasureDrift(config_, before_, {.count = 10, .mean = mean, .var = var, .skipped_channels = skipped});
  }

  layer::LayerConfig config_{.num_channels = 3, .eps = 0.25};
  layer::Statistics before_{.running_mean = {0, 10, -1},
                            .running_var = {0.75, 3.75, 0},
                            .sample_count = {1, 1, 1},
                            .num_batches_tracked = 1,
                            .skipped_batches = {}};
};

TEST_F(DriftTest, IsTheWorstChannelInStandardDeviationsAndLogarithms) {
  // By hand: sqrt(var + eps) is 1, 2 and 0.5; distances of the means 0.5, 6 and 1 are 0.5, 3 and 2 of them.
  Drift drift = Measure({0.5, 4, -2}, {0.75, 3.75, 0});
  EXPECT_DOUBLE_EQ(drift.mean, 3);
  EXPECT_DOUBLE_EQ(drift.variance, 0);
  // Variances with eps: 2 of 1, 0.5 of 4, 0.25 of 0.25.
  drift = Measure({0, 10, -1}, {1.75, 0.25, 0});
  EXPECT_DOUBLE_EQ(drift.mean, 0);
  EXPECT_DOUBLE_EQ(drift.variance, std::log(8)) << "smaller counts like larger";
  EXPECT_DOUBLE_EQ(Measure({0, 10, -1}, {15.75, 0.25, 0}).variance, std::log(16));
}

TEST_F(DriftTest, LeavesSkippedChannelsOut) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Drift drift = Measure({nan, 12, 100}, {nan, 3.75, 100}, {0, 2});
  EXPECT_DOUBLE_EQ(drift.mean, 1);
  EXPECT_DOUBLE_EQ(drift.variance, 0);
}

TEST_F(DriftTest, NonFiniteIsInfinitelyFar) {
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), kInf}) {
    EXPECT_EQ(Measure({bad, 10, -1}, {0.75, 3.75, 0}).mean, kInf);
    EXPECT_EQ(Measure({0, 10, -1}, {0.75, bad, 0}).variance, kInf);
  }
}

TEST_F(DriftTest, IsNotKnownBeforeTheFirstBatch) {
  before_.num_batches_tracked = 0;
  const Drift drift = Measure({5, 5, 5}, {1, 1, 1});
  EXPECT_TRUE(std::isnan(drift.mean));
  EXPECT_TRUE(std::isnan(drift.variance));
}

}  // namespace
}  // namespace normd::registry
