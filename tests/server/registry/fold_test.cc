#include "server/registry/fold.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "tests/non_finite.h"

namespace normd::registry {
namespace {

using layer::Averaging;
using layer::LayerConfig;
using layer::Statistics;
using layer::VarianceEstimator;
using ::testing::ElementsAre;
using tests::kNaN;

constexpr int kBatches = 4;

// Batch t has 3 + t rows of 2 channels.
std::vector<double> Values(int t, int c) {
  std::vector<double> values;
  for (int i = 0; i < 3 + t; ++i) values.push_back(((i * 7 + t * 3 + c * 5) % 11) - 4.0 + c * 10);
  return values;
}

double Mean(const std::vector<double>& values) {
  long double sum = 0;
  for (const double v : values) sum += v;
  return static_cast<double>(sum / static_cast<long double>(values.size()));
}

// Divides by n - ddof.
double Variance(const std::vector<double>& values, int ddof) {
  const long double mean = Mean(values);
  long double sum = 0;
  for (const double v : values) sum += (v - mean) * (v - mean);
  return static_cast<double>(sum / static_cast<long double>(static_cast<int>(values.size()) - ddof));
}

Statistics FoldBatch(const LayerConfig& config, const Statistics& statistics, int t,
                     std::vector<int64_t> skipped = {}) {
  const std::vector<double> mean = {Mean(Values(t, 0)), Mean(Values(t, 1))};
  const std::vector<double> var = {Variance(Values(t, 0), 0), Variance(Values(t, 1), 0)};
  return Fold(config, statistics, {.count = 3 + t, .mean = mean, .var = var, .skipped_channels = skipped});
}

Statistics FoldAll(const LayerConfig& config, Statistics statistics) {
  for (int t = 0; t < kBatches; ++t) statistics = FoldBatch(config, statistics, t);
  return statistics;
}

LayerConfig Config(Averaging averaging, double update_weight, VarianceEstimator estimator) {
  LayerConfig config;
  config.num_channels = 2;
  config.averaging = averaging;
  config.update_weight = update_weight;
  config.running_var_estimator = estimator;
  return config;
}

// One statistic after all batches, from its start and the batches' values of it.
using Rule = std::function<double(double start, const std::vector<double>& batches)>;

// r = old * r + new * b, as its closed form.
Rule ClosedForm(double old_weight, double new_weight) {
  return [=](double start, const std::vector<double>& batches) {
    const auto count = static_cast<double>(batches.size());
    double r = std::pow(old_weight, count) * start;
    for (size_t t = 0; t < batches.size(); ++t) {
      r += new_weight * std::pow(old_weight, count - 1 - static_cast<double>(t)) * batches[t];
    }
    return r;
  };
}

// haiku/_src/moving_averages.py, zero_debias: the start has no weight.
Rule HaikuEma(double decay) {
  return [=](double, const std::vector<double>& batches) {
    double hidden = 0;
    for (const double b : batches) hidden = hidden * decay + b * (1 - decay);
    return hidden / (1 - std::pow(decay, static_cast<double>(batches.size())));
  };
}

double ArithmeticMean(double, const std::vector<double>& batches) { return Mean(batches); }

TEST(FoldTest, FollowsEachFrameworksRule) {
  constexpr auto kPopulation = VarianceEstimator::kPopulation;
  constexpr auto kSample = VarianceEstimator::kSample;
  const struct {
    std::string name;
    LayerConfig config;
    Rule rule;
    int ddof;
  } cases[] = {
      {"PyTorch momentum 0.1", Config(Averaging::kExponential, 0.1, kSample), ClosedForm(1 - 0.1, 0.1), 1},
      {"PyTorch momentum None", Config(Averaging::kCumulative, 0, kSample), ArithmeticMean, 1},
      {"cumulative, population", Config(Averaging::kCumulative, 0, kPopulation), ArithmeticMean, 0},
      {"ONNX and reference momentum 0.9", Config(Averaging::kExponential, 0.1, kPopulation), ClosedForm(0.9, 1 - 0.9),
       0},
      {"Keras and Flax momentum 0.99", Config(Averaging::kExponential, 0.01, kPopulation), ClosedForm(0.99, 1 - 0.99),
       0},
      {"tf-keras fused momentum 0.99", Config(Averaging::kExponential, 0.01, kSample), ClosedForm(0.99, 1 - 0.99), 1},
      {"Haiku decay_rate 0.99", Config(Averaging::kExponentialDebiased, 0.01, kPopulation), HaikuEma(0.99), 0},
      {"Haiku decay_rate 0.3", Config(Averaging::kExponentialDebiased, 0.7, kPopulation), HaikuEma(0.3), 0},
      {"debiased, sample", Config(Averaging::kExponentialDebiased, 0.1, kSample), HaikuEma(0.9), 1},
      {"weight 1 keeps the last batch", Config(Averaging::kExponential, 1, kPopulation), ClosedForm(0, 1), 0},
      {"weight 0 keeps the start", Config(Averaging::kExponential, 0, kPopulation), ClosedForm(1, 0), 0},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    const Statistics got = FoldAll(c.config, Statistics::Initial(c.config));
    for (int channel = 0; channel < 2; ++channel) {
      std::vector<double> means;
      std::vector<double> vars;
      for (int t = 0; t < kBatches; ++t) {
        means.push_back(Mean(Values(t, channel)));
        vars.push_back(Variance(Values(t, channel), c.ddof));
      }
      const double mean = c.rule(0, means);
      const double var = c.rule(1, vars);
      EXPECT_NEAR(got.running_mean[channel], mean, 1e-14 * (1 + std::abs(mean)));
      EXPECT_NEAR(got.running_var[channel], var, 1e-14 * (1 + var));
      EXPECT_EQ(got.sample_count[channel], 3 + 4 + 5 + 6);
    }
    EXPECT_EQ(got.num_batches_tracked, kBatches);
    EXPECT_THAT(got.skipped_batches, ::testing::IsEmpty());
  }
}

// torch.nn.BatchNorm1d(2, momentum, dtype=float64) of PyTorch 1.13.1 on the same four batches.
TEST(FoldTest, GivesPyTorchsNumbers) {
  const struct {
    Averaging averaging;
    std::vector<double> mean;
    std::vector<double> var;
  } cases[] = {
      {Averaging::kExponential, {0.15665, 3.8396833333333333}, {4.838450000000001, 4.941116666666667}},
      {Averaging::kCumulative, {0.4208333333333334, 11.1125}, {12.162500000000001, 12.529166666666667}},
  };
  for (const auto& c : cases) {
    const LayerConfig config = Config(c.averaging, 0.1, VarianceEstimator::kSample);
    const Statistics got = FoldAll(config, Statistics::Initial(config));
    for (int channel = 0; channel < 2; ++channel) {
      EXPECT_DOUBLE_EQ(got.running_mean[channel], c.mean[channel]);
      EXPECT_DOUBLE_EQ(got.running_var[channel], c.var[channel]);
    }
  }
}

TEST(FoldTest, PooledIsTheMeanAndVarianceOfEveryValueSeen) {
  for (const int ddof : {0, 1}) {
    const LayerConfig config =
        Config(Averaging::kPooled, 0, ddof == 0 ? VarianceEstimator::kPopulation : VarianceEstimator::kSample);
    Statistics got = Statistics::Initial(config);
    std::vector<double> seen[2];
    for (int t = 0; t < kBatches; ++t) {
      got = FoldBatch(config, got, t);
      for (int c = 0; c < 2; ++c) {
        const std::vector<double> values = Values(t, c);
        seen[c].insert(seen[c].end(), values.begin(), values.end());
        EXPECT_NEAR(got.running_mean[c], Mean(seen[c]), 1e-14 * 16);
        EXPECT_NEAR(got.running_var[c], Variance(seen[c], ddof), 1e-14 * 16);
        EXPECT_EQ(got.sample_count[c], static_cast<double>(seen[c].size()));
      }
    }
  }
}

TEST(FoldTest, ASingleValueHasNoSampleVarianceYet) {
  const LayerConfig config = Config(Averaging::kPooled, 0, VarianceEstimator::kSample);
  Statistics got = Statistics::Initial(config);
  std::vector<double> seen[2];
  for (const double value : {3.0, 7.0, 8.0}) {
    const std::vector<double> mean = {value, -value};
    const std::vector<double> var = {0, 0};
    got = Fold(config, got, {.count = 1, .mean = mean, .var = var});
    for (size_t c = 0; c < 2; ++c) {
      seen[c].push_back(mean[c]);
      EXPECT_DOUBLE_EQ(got.running_mean[c], Mean(seen[c]));
      EXPECT_DOUBLE_EQ(got.running_var[c], seen[c].size() == 1 ? 1 : Variance(seen[c], 1));
    }
  }
  // A prior that weighs nothing does not divide by zero.
  got = Statistics::Initial(config);
  got.sample_count = {1e-20, 0};
  got = Fold(config, got, {.count = 1, .mean = seen[0], .var = seen[1]});
  EXPECT_THAT(got.running_mean, ElementsAre(3, 7));
  EXPECT_THAT(got.running_var, ElementsAre(1, 1));
}

TEST(FoldTest, ChannelsMayHaveCountsOfTheirOwn) {
  for (const Averaging averaging :
       {Averaging::kExponential, Averaging::kExponentialDebiased, Averaging::kCumulative, Averaging::kPooled}) {
    const LayerConfig config = Config(averaging, 0.2, VarianceEstimator::kSample);
    const Statistics start = FoldBatch(config, Statistics::Initial(config), 0);
    const std::vector<double> mean = {Mean(Values(1, 0)), Mean(Values(2, 1))};
    const std::vector<double> var = {Variance(Values(1, 0), 0), Variance(Values(2, 1), 0)};
    const std::vector<int64_t> counts = {4, 5};
    const Statistics got = Fold(config, start, {.channel_counts = counts, .mean = mean, .var = var});
    const Statistics first = FoldBatch(config, start, 1);
    const Statistics second = FoldBatch(config, start, 2);
    EXPECT_THAT(got.running_mean, ElementsAre(first.running_mean[0], second.running_mean[1]));
    EXPECT_THAT(got.running_var, ElementsAre(first.running_var[0], second.running_var[1]));
    EXPECT_THAT(got.sample_count, ElementsAre(first.sample_count[0], second.sample_count[1]));
  }
}

// stable_baselines3/common/running_mean_std.py: starts with mean 0, variance 1 and a count of 1e-4.
TEST(FoldTest, PooledWithAPriorIsStableBaselines3) {
  const LayerConfig config = Config(Averaging::kPooled, 0, VarianceEstimator::kPopulation);
  Statistics got = Statistics::Initial(config);
  got.sample_count = {1e-4, 1e-4};
  got = FoldAll(config, got);
  for (int c = 0; c < 2; ++c) {
    double mean = 0;
    double var = 1;
    double count = 1e-4;
    for (int t = 0; t < kBatches; ++t) {
      const std::vector<double> batch = Values(t, c);
      const auto batch_count = static_cast<double>(batch.size());
      const double delta = Mean(batch) - mean;
      const double total = count + batch_count;
      const double m_2 = var * count + Variance(batch, 0) * batch_count + delta * delta * count * batch_count / total;
      mean += delta * batch_count / total;
      var = m_2 / total;
      count = total;
    }
    EXPECT_NEAR(got.running_mean[c], mean, 1e-13);
    EXPECT_NEAR(got.running_var[c], var, 1e-13);
    EXPECT_DOUBLE_EQ(got.sample_count[c], count);
  }
}

TEST(FoldTest, PooledDoesNotCancelFarFromZero) {
  const LayerConfig config = Config(Averaging::kPooled, 0, VarianceEstimator::kPopulation);
  Statistics got = Statistics::Initial(config);
  const std::vector<double> mean = {1e9, -1e9};
  const std::vector<double> var = {1, 1e-6};
  for (int t = 0; t < 1000; ++t) got = Fold(config, got, {.count = 7, .mean = mean, .var = var});
  EXPECT_THAT(got.running_mean, ElementsAre(1e9, -1e9));
  EXPECT_NEAR(got.running_var[0], 1, 1e-12);
  EXPECT_NEAR(got.running_var[1], 1e-6, 1e-18);
}

TEST(FoldTest, AConstantChannelStaysExact) {
  for (const Averaging averaging : {Averaging::kPooled, Averaging::kCumulative, Averaging::kExponentialDebiased}) {
    const LayerConfig config = Config(averaging, 1.0 / 3, VarianceEstimator::kPopulation);
    Statistics got = Statistics::Initial(config);
    const std::vector<double> mean = {1e10 / 3, 0};
    const std::vector<double> var = {0, 0};
    got = Fold(config, got, {.count = 63, .mean = mean, .var = var});
    EXPECT_EQ(got.running_mean[0], 1e10 / 3);
    EXPECT_THAT(got.running_var, ElementsAre(0, 0));
  }
}

TEST(FoldTest, ASkippedChannelKeepsItsStateAndItsOwnCount) {
  for (const Averaging averaging :
       {Averaging::kExponential, Averaging::kExponentialDebiased, Averaging::kCumulative, Averaging::kPooled}) {
    const LayerConfig config = Config(averaging, 0.2, VarianceEstimator::kSample);
    const Statistics start = FoldBatch(config, Statistics::Initial(config), 0);
    const Statistics skipped = FoldBatch(config, start, 1, {1});
    EXPECT_EQ(skipped.running_mean[1], start.running_mean[1]);
    EXPECT_EQ(skipped.running_var[1], start.running_var[1]);
    EXPECT_THAT(skipped.sample_count, ElementsAre(7, 3));
    EXPECT_EQ(skipped.num_batches_tracked, 2);
    EXPECT_THAT(skipped.skipped_batches, ElementsAre(0, 1));

    // From there on it is as if the batch had never been, for that channel only.
    const Statistics with = FoldBatch(config, skipped, 2);
    const Statistics without = FoldBatch(config, start, 2);
    const Statistics all = FoldBatch(config, FoldBatch(config, start, 1), 2);
    EXPECT_EQ(with.running_mean[1], without.running_mean[1]);
    EXPECT_EQ(with.running_var[1], without.running_var[1]);
    EXPECT_EQ(with.running_mean[0], all.running_mean[0]);
    EXPECT_EQ(with.running_var[0], all.running_var[0]);
    EXPECT_THAT(with.skipped_batches, ElementsAre(0, 1));
  }
}

TEST(FoldTest, NanStaysUnlessTheWeightIsOneAndZeroLetsNoneIn) {
  const std::vector<double> good = {1, 1};
  const std::vector<double> bad = {kNaN, 1};
  LayerConfig config = Config(Averaging::kExponential, 0.5, VarianceEstimator::kPopulation);
  Statistics poisoned = Statistics::Initial(config);
  poisoned.running_mean[0] = poisoned.running_var[0] = kNaN;

  EXPECT_TRUE(std::isnan(Fold(config, poisoned, {.count = 4, .mean = good, .var = good}).running_mean[0]));
  EXPECT_EQ(Fold(config, poisoned, {.count = 4, .mean = good, .var = good}).running_mean[1], 0.5);

  config.update_weight = 1;
  const Statistics healed = Fold(config, poisoned, {.count = 4, .mean = good, .var = good});
  EXPECT_THAT(healed.running_mean, ElementsAre(1, 1));
  EXPECT_THAT(healed.running_var, ElementsAre(1, 1));

  config.update_weight = 0;
  const Statistics kept = Fold(config, Statistics::Initial(config), {.count = 4, .mean = bad, .var = bad});
  EXPECT_THAT(kept.running_mean, ElementsAre(0, 0));
  EXPECT_THAT(kept.running_var, ElementsAre(1, 1));
}

TEST(FoldTest, IsPure) {
  const LayerConfig config = Config(Averaging::kPooled, 0, VarianceEstimator::kSample);
  const Statistics start = FoldBatch(config, Statistics::Initial(config), 3);
  const Statistics copy = start;
  EXPECT_EQ(FoldBatch(config, start, 1), FoldBatch(config, start, 1));
  EXPECT_EQ(start, copy);
}

}  // namespace
}  // namespace normd::registry
