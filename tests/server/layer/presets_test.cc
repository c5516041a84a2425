#include "server/layer/presets.h"

#include <optional>
#include <string>
#include <vector>

#include "tests/status_matchers.h"

namespace normd::layer {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::StatusIs;

// The defaults of the frameworks as listed in docs/batch_norm.md; the numbers are the frameworks' own.
TEST(PresetsTest, HaveTheNumbersOfTheirFrameworks) {
  const struct {
    std::string name;
    double old_weight;
    double eps;
    Averaging averaging;
    VarianceEstimator estimator;
    TrainingStatistics training;
    bool affine;
    std::optional<double> clip;
  } cases[] = {
      {"reference", 0.9, 1e-5, Averaging::kExponential, VarianceEstimator::kPopulation, TrainingStatistics::kBatch,
       true, std::nullopt},
      {"pytorch", 0.9, 1e-5, Averaging::kExponential, VarianceEstimator::kSample, TrainingStatistics::kBatch, true,
       std::nullopt},
      {"keras", 0.99, 1e-3, Averaging::kExponential, VarianceEstimator::kPopulation, TrainingStatistics::kBatch, true,
       std::nullopt},
      {"keras_fused", 0.99, 1e-3, Averaging::kExponential, VarianceEstimator::kSample, TrainingStatistics::kBatch, true,
       std::nullopt},
      {"flax", 0.99, 1e-5, Averaging::kExponential, VarianceEstimator::kPopulation, TrainingStatistics::kBatch, true,
       std::nullopt},
      {"haiku", 0.99, 1e-5, Averaging::kExponentialDebiased, VarianceEstimator::kPopulation, TrainingStatistics::kBatch,
       true, std::nullopt},
      {"standard_scaler", 0.9, 1e-300, Averaging::kPooled, VarianceEstimator::kPopulation,
       TrainingStatistics::kRunningAfterUpdate, false, std::nullopt},
      {"rl_observation", 0.9, 1e-8, Averaging::kPooled, VarianceEstimator::kPopulation,
       TrainingStatistics::kRunningAfterUpdate, false, 10.0},
  };
  std::vector<std::string> names;
  for (const auto& c : cases) {
    NORMD_ASSERT_OK_AND_ASSIGN(LayerConfig config, PresetConfig(c.name));
    EXPECT_EQ(config.num_channels, 0) << c.name;
    EXPECT_NEAR(config.update_weight, 1 - c.old_weight, 1e-15) << c.name;
    EXPECT_EQ(config.eps, c.eps) << c.name;
    EXPECT_EQ(config.averaging, c.averaging) << c.name;
    EXPECT_EQ(config.running_var_estimator, c.estimator) << c.name;
    EXPECT_EQ(config.normalize_training_with, c.training) << c.name;
    EXPECT_EQ(config.affine, c.affine) << c.name;
    EXPECT_EQ(config.clip, c.clip) << c.name;
    EXPECT_TRUE(config.track_running_stats) << c.name;
    EXPECT_EQ(config.non_finite_policy, NonFinitePolicy::kReject) << c.name;
    config.num_channels = 1;
    EXPECT_THAT(ValidateConfig(config, 1000), IsOk()) << c.name;
    names.push_back(c.name);
  }
  EXPECT_EQ(PresetNames(), names);
}

TEST(PresetsTest, AnEmptyNameMeansReferenceAndTheDefaultsAreIts) {
  NORMD_ASSERT_OK_AND_ASSIGN(LayerConfig unnamed, PresetConfig(""));
  NORMD_ASSERT_OK_AND_ASSIGN(LayerConfig reference, PresetConfig("reference"));
  EXPECT_EQ(unnamed, reference);
  EXPECT_EQ(reference, LayerConfig());
}

TEST(PresetsTest, AnUnknownNameGetsTheList) {
  EXPECT_THAT(PresetConfig("torch"),
              StatusIs(StatusCode::kInvalidArgument,
                       "preset 'torch' does not exist, want one of reference, pytorch, keras, keras_fused, flax, "
                       "haiku, standard_scaler, rl_observation"));
}

}  // namespace
}  // namespace normd::layer
