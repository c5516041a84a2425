#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "server/registry/layer_entry.h"
#include "tests/non_finite.h"
#include "tests/server/registry/registry_fixture.h"

namespace normd::registry {
namespace {

using absl::StatusCode;
using layer::LayerConfig;
using layer::NonFinitePolicy;
using layer::TrainingStatistics;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using tests::IsOk;
using tests::kInf;
using tests::kNaN;
using tests::StatusIs;
using tests::View;

class TrainStepTest : public tests::RegistryTest {
 protected:
  // (4, 2): channel 0 has mean 2.5 and variance 1.25, channel 1 mean 10 and variance 30.
  const std::vector<double> x_ = {1, 4, 2, 6, 3, 12, 4, 18};
  std::vector<double> y_ = std::vector<double>(8, -777);

  TrainStepInput Input(const std::string& layer) const {
    TrainStepInput input;
    input.layer = layer;
    input.x = View(x_, {4, 2});
    return input;
  }
  absl::StatusOr<TrainStepResult> Train(const TrainStepInput& input) {
    return TrainStep(registry_, input, control_, Bytes(&y_));
  }
  void ExpectOutput(const std::vector<double>& mean, const std::vector<double>& var, const LayerConfig& config = {},
                    const std::vector<double>& gamma = {1, 1}, const std::vector<double>& beta = {0, 0}) {
    for (size_t i = 0; i < 8; ++i) {
      double x_hat = (x_[i] - mean[i % 2]) / std::sqrt(var[i % 2] + config.eps);
      if (config.clip.has_value()) x_hat = std::max(-*config.clip, std::min(*config.clip, x_hat));
      EXPECT_NEAR(y_[i], gamma[i % 2] * x_hat + beta[i % 2], 1e-13) << i;
    }
  }
};

TEST_F(TrainStepTest, NormalizesAndFoldsInOneStep) {
  const auto before = MakeLayer("bn", 2);
  NORMD_ASSERT_OK_AND_ASSIGN(const auto result, Train(Input("bn")));
  EXPECT_THAT(result.batch_mean, ElementsAre(2.5, 10));
  EXPECT_THAT(result.batch_var, ElementsAre(1.25, 30));
  EXPECT_THAT(result.skipped_channels, IsEmpty());
  EXPECT_FALSE(result.replayed);
  ExpectOutput({2.5, 10}, {1.25, 30});

  const auto after = Get("bn");
  EXPECT_EQ(result.version, 2);
  EXPECT_EQ(after->version, 2);
  EXPECT_EQ(result.content_hash, after->content_hash);
  EXPECT_NE(result.content_hash, before->content_hash);
  EXPECT_EQ(result.num_batches_tracked, 1);
  EXPECT_EQ(after->Etag(), before->Etag());
  EXPECT_DOUBLE_EQ(after->statistics->running_mean[1], 0.1 * 10);
  EXPECT_DOUBLE_EQ(after->statistics->running_var[1], 0.9 + 0.1 * 30);
  EXPECT_THAT(after->statistics->sample_count, ElementsAre(4, 4));
}

TEST_F(TrainStepTest, EveryLayoutAndTypeOfTheSameValuesGivesTheSameState) {
  const std::vector<float> floats = {1, 2, 4, 6, 3, 4, 12, 18};  // (2, 2, 2), channels first
  const std::vector<double> doubles(floats.begin(), floats.end());
  MakeLayer("rows", 2);
  MakeLayer("ncl", 2);
  MakeLayer("ncl64", 2);
  NORMD_ASSERT_OK_AND_ASSIGN(const auto rows, Train(Input("rows")));
  TrainStepInput input;
  input.layer = "ncl";
  input.x = View(floats, {2, 2, 2});
  std::vector<float> y(8);
  NORMD_ASSERT_OK_AND_ASSIGN(const auto ncl, TrainStep(registry_, input, control_, Bytes(&y)));
  input.layer = "ncl64";
  input.x = View(doubles, {2, 2, 2});
  NORMD_ASSERT_OK_AND_ASSIGN(const auto ncl64, TrainStep(registry_, input, control_, nullptr));
  EXPECT_EQ(ncl.content_hash, rows.content_hash);
  EXPECT_EQ(ncl64.content_hash, rows.content_hash);
  EXPECT_NEAR(y[2], (4 - 10) / std::sqrt(30 + 1e-5), 1e-6);
}

TEST_F(TrainStepTest, NormalizesWithWhatTheLayerSays) {
  const struct {
    TrainingStatistics with;
    std::vector<double> mean;
    std::vector<double> var;
  } cases[] = {
      {TrainingStatistics::kBatch, {2.5, 10}, {1.25, 30}},
      // torchrl's VecNormV2 normalizes first and updates then; Stable-Baselines3's VecNormalize the reverse.
      {TrainingStatistics::kRunningBeforeUpdate, {1, 2}, {9, 16}},
      {TrainingStatistics::kRunningAfterUpdate, {0.9 * 1 + 0.25, 0.9 * 2 + 1}, {0.9 * 9 + 0.125, 0.9 * 16 + 3}},
  };
  int i = 0;
  for (const auto& c : cases) {
    for (const bool skip_update : {true, false}) {
      const std::string name = "bn" + std::to_string(i++);
      MakeLayer(name, 2, "reference", [&](LayerConfig& config) { config.normalize_training_with = c.with; });
      layer::StateUpdate state;
      state.running_mean = {1, 2};
      state.running_var = {9, 16};
      NORMD_ASSERT_OK(registry_.SetState(name, state, 0, ""));
      TrainStepInput input = Input(name);
      input.skip_update = skip_update;
      NORMD_ASSERT_OK_AND_ASSIGN(const auto result, Train(input));
      ExpectOutput(c.mean, c.var);
      EXPECT_EQ(result.version, skip_update ? 2 : 3);
      EXPECT_EQ(Get(name)->version, result.version);
      EXPECT_EQ(result.content_hash, Get(name)->content_hash);
      EXPECT_EQ(result.num_batches_tracked, skip_update ? 0 : 1);
      EXPECT_THAT(result.batch_mean, ElementsAre(2.5, 10));
    }
  }
}

TEST_F(TrainStepTest, StandardScalerIsPartialFitThenTransform) {
  MakeLayer("scaler", 2, "standard_scaler");
  NORMD_ASSERT_OK(Train(Input("scaler")));
  ExpectOutput({2.5, 10}, {1.25, 30}, {.eps = 0});
  // A second batch moves the statistics of the first to those of both.
  const std::vector<double> more = {-1, 10, -1, 10};
  TrainStepInput input = Input("scaler");
  input.x = View(more, {2, 2});
  std::vector<double> y(4);
  NORMD_ASSERT_OK(TrainStep(registry_, input, control_, Bytes(&y)));
  const double mean = 8.0 / 6;
  const double var = (1 + 4 + 9 + 16 + 1 + 1) / 6.0 - mean * mean;
  EXPECT_NEAR(y[0], (-1 - mean) / std::sqrt(var), 1e-14);
  EXPECT_EQ(y[1], 0);
  EXPECT_THAT(Get("scaler")->statistics->sample_count, ElementsAre(6, 6));

  // A constant channel comes out as 0.
  MakeLayer("constant", 2, "standard_scaler");
  const std::vector<float> constant = {0.1F, 1e10F / 3, 0.1F, 1e10F / 3, 0.1F, 1e10F / 3};
  input = Input("constant");
  input.x = View(constant, {3, 2});
  std::vector<float> zeros(6, 1);
  for (int step = 0; step < 3; ++step) {
    NORMD_ASSERT_OK(TrainStep(registry_, input, control_, Bytes(&zeros)));
    EXPECT_THAT(zeros, ::testing::Each(0));
  }
}

TEST_F(TrainStepTest, RlObservationBoundsItsOutput) {
  MakeLayer("obs", 2, "rl_observation");
  layer::StateUpdate state;
  state.running_mean = {0, 0};
  state.running_var = {1e-4, 1e-4};
  state.sample_count = {1e9, 1e9};
  NORMD_ASSERT_OK(registry_.SetState("obs", state, 0, ""));
  NORMD_ASSERT_OK(Train(Input("obs")));
  EXPECT_THAT(y_, ::testing::Each(10));
}

TEST_F(TrainStepTest, StoresTheGammaAndBetaThatComeWithIt) {
  MakeLayer("bn", 2);
  TrainStepInput input = Input("bn");
  input.gamma = {2, -1};
  input.beta = {0.5, 3};
  input.skip_update = true;
  NORMD_ASSERT_OK(Train(input));
  ExpectOutput({2.5, 10}, {1.25, 30}, {}, {2, -1}, {0.5, 3});
  EXPECT_THAT(Get("bn")->affine->gamma, ElementsAre(1, 1));

  input.skip_update = false;
  NORMD_ASSERT_OK_AND_ASSIGN(const auto result, Train(input));
  ExpectOutput({2.5, 10}, {1.25, 30}, {}, {2, -1}, {0.5, 3});
  EXPECT_EQ(result.version, 2);
  EXPECT_THAT(Get("bn")->affine->gamma, ElementsAre(2, -1));
  EXPECT_THAT(Get("bn")->affine->beta, ElementsAre(0.5, 3));
}

TEST_F(TrainStepTest, WithoutRunningStatisticsThereIsNothingToFold) {
  const auto before = MakeLayer("bn", 2, "pytorch", [](LayerConfig& c) { c.track_running_stats = false; });
  TrainStepInput input = Input("bn");
  input.request_id = "step";
  NORMD_ASSERT_OK_AND_ASSIGN(auto result, Train(input));
  ExpectOutput({2.5, 10}, {1.25, 30});
  EXPECT_EQ(result.version, 1);
  EXPECT_EQ(result.num_batches_tracked, 0);
  EXPECT_EQ(Get("bn"), before);
  NORMD_ASSERT_OK_AND_ASSIGN(result, Train(input));
  EXPECT_TRUE(result.replayed);

  input = Input("bn");
  input.gamma = {2, 2};
  input.beta = {0, 0};
  NORMD_ASSERT_OK_AND_ASSIGN(result, Train(input));
  EXPECT_EQ(result.version, 2);
  EXPECT_EQ(result.num_batches_tracked, 0);
}

TEST_F(TrainStepTest, RefusesWhatDoesNotFitAndChangesNothing) {
  MakeLayer("bn", 2);
  MakeLayer("sample", 2, "pytorch");
  MakeLayer("plain", 2, "reference", [](LayerConfig& c) { c.affine = false; });
  const struct {
    std::string name;
    std::function<void(TrainStepInput&)> change;
    StatusCode code;
    std::string message;
  } cases[] = {
      {"bm", [](TrainStepInput&) {}, StatusCode::kNotFound, "layer 'bm': does not exist"},
      {"b m", [](TrainStepInput&) {}, StatusCode::kInvalidArgument, "layer name 'b m' contains ' '"},
      {"bn",
       [](TrainStepInput& i) {
         i.x.shape = {2, 4};
       },
       StatusCode::kInvalidArgument, "layer 'bn': x has 4 channels, want 2"},
      {"bn", [](TrainStepInput& i) { i.x.shape = {}; }, StatusCode::kInvalidArgument, "layer 'bn': x has rank 0"},
      {"bn", [](TrainStepInput& i) { i.x.shape = {8}; }, StatusCode::kInvalidArgument, "layer 'bn': x has rank 1"},
      {"bn", [](TrainStepInput& i) { i.x.shape.assign(9, 1); }, StatusCode::kInvalidArgument,
       "layer 'bn': x has rank 9"},
      {"bn",
       [](TrainStepInput& i) {
         i.x.shape = {0, 2};
       },
       StatusCode::kInvalidArgument, "empty batch"},
      {"bn",
       [](TrainStepInput& i) {
         i.x.shape = {-4, 2};
       },
       StatusCode::kInvalidArgument, "extent 0 = -4"},
      {"bn",
       [](TrainStepInput& i) {
         i.x.shape = {4, 2, 1LL << 62};
       },
       StatusCode::kInvalidArgument, "64 bits"},
      {"bn",
       [](TrainStepInput& i) {
         i.x.shape = {3, 2};
       },
       StatusCode::kInvalidArgument, "layer 'bn': x has 64 bytes of data, want 48"},
      {"sample",
       [](TrainStepInput& i) {
         i.x.shape = {1, 2};
         i.x.data = i.x.data.subspan(0, 16);
       },
       StatusCode::kInvalidArgument,
       "layer 'sample': one value per channel, want at least 2: the sample variance divides by n - 1"},
      {"bn",
       [](TrainStepInput& i) {
         i.gamma = {1, 1};
       },
       StatusCode::kInvalidArgument, "layer 'bn': gamma is given without beta"},
      {"bn",
       [](TrainStepInput& i) {
         i.gamma = {1};
         i.beta = {1};
       },
       StatusCode::kInvalidArgument, "layer 'bn': gamma has 1 entries, want 2"},
      {"bn",
       [](TrainStepInput& i) {
         i.gamma = {1, 1};
         i.beta = {1, kInf};
       },
       StatusCode::kInvalidArgument, "layer 'bn': beta[1] is inf"},
      {"plain",
       [](TrainStepInput& i) {
         i.gamma = {1, 1};
         i.beta = {1, 1};
       },
       StatusCode::kInvalidArgument, "layer 'plain': gamma and beta are given, want none: affine is false"},
      {"bn", [](TrainStepInput& i) { i.request_id.assign(129, 'r'); }, StatusCode::kInvalidArgument,
       "layer 'bn': request_id"},
  };
  for (const auto& c : cases) {
    TrainStepInput input = Input(c.name);
    c.change(input);
    EXPECT_THAT(Train(input), StatusIs(c.code, c.message));
    for (const char* name : {"bn", "sample", "plain"}) EXPECT_EQ(Get(name)->version, 1);
  }
}

TEST_F(TrainStepTest, OneValuePerChannelIsFineForThePopulationVariance) {
  MakeLayer("bn", 2);
  const std::vector<double> x = {3, 4};
  TrainStepInput input = Input("bn");
  input.x = View(x, {1, 2});
  NORMD_ASSERT_OK_AND_ASSIGN(const auto result, TrainStep(registry_, input, control_, nullptr));
  EXPECT_THAT(result.batch_var, ElementsAre(0, 0));
  EXPECT_EQ(result.num_batches_tracked, 1);
}

TEST_F(TrainStepTest, FollowsTheNonFinitePolicy) {
  for (const double bad : {kNaN, kInf, -kInf, 1e200}) {
    std::vector<double> x = x_;
    x[3] = bad;  // Channel 1. The square of 1e200 is more than float64 holds.
    if (bad == 1e200) x[5] = -1e200;
    const auto input = [&](const std::string& name) {
      TrainStepInput i = Input(name);
      i.x = View(x, {4, 2});
      return i;
    };
    const std::string suffix = std::to_string(registry_.size());
    const auto reject = MakeLayer("reject" + suffix, 2);
    EXPECT_THAT(Train(input(reject->name)), StatusIs(StatusCode::kInvalidArgument, "overflows in channel 1 (1 such"));
    EXPECT_EQ(Get(reject->name), reject);

    const std::string skip = "skip" + suffix;
    MakeLayer(skip, 2, "reference", [](LayerConfig& c) { c.non_finite_policy = NonFinitePolicy::kSkipChannel; });
    layer::StateUpdate state;
    state.running_mean = {1, 2};
    state.running_var = {9, 16};
    NORMD_ASSERT_OK(registry_.SetState(skip, state, 0, ""));
    NORMD_ASSERT_OK_AND_ASSIGN(const auto skipped, Train(input(skip)));
    EXPECT_THAT(skipped.skipped_channels, ElementsAre(1));
    EXPECT_EQ(skipped.batch_mean[0], 2.5);
    EXPECT_TRUE(std::isnan(skipped.batch_mean[1]));
    EXPECT_TRUE(std::isnan(skipped.batch_var[1]));
    const auto after = Get(skip);
    EXPECT_DOUBLE_EQ(after->statistics->running_mean[0], 0.9 * 1 + 0.25);
    EXPECT_EQ(after->statistics->running_mean[1], 2);
    EXPECT_EQ(after->statistics->running_var[1], 16);
    EXPECT_THAT(after->statistics->sample_count, ElementsAre(4, 0));
    EXPECT_THAT(after->statistics->skipped_batches, ElementsAre(0, 1));
    // The others by their batch, this one by its running statistics, element by element.
    EXPECT_NEAR(y_[0], (1 - 2.5) / std::sqrt(1.25 + 1e-5), 1e-13);
    EXPECT_NEAR(y_[1], (4 - 2.0) / std::sqrt(16 + 1e-5), 1e-13);
    EXPECT_NEAR(y_[7], (18 - 2.0) / std::sqrt(16 + 1e-5), 1e-13);

    const std::string propagate = "propagate" + suffix;
    MakeLayer(propagate, 2, "reference", [](LayerConfig& c) { c.non_finite_policy = NonFinitePolicy::kPropagate; });
    NORMD_ASSERT_OK_AND_ASSIGN(const auto propagated, Train(input(propagate)));
    EXPECT_THAT(propagated.skipped_channels, IsEmpty());
    EXPECT_FALSE(std::isfinite(Get(propagate)->statistics->running_var[1]));
    EXPECT_DOUBLE_EQ(Get(propagate)->statistics->running_mean[0], 0.25);
  }
}

TEST_F(TrainStepTest, ASkippedChannelWithoutRunningStatisticsIsTakenAsItIs) {
  MakeLayer("bn", 2, "reference", [](LayerConfig& c) {
    c.non_finite_policy = NonFinitePolicy::kSkipChannel;
    c.track_running_stats = false;
  });
  std::vector<double> x = x_;
  x[3] = kNaN;
  TrainStepInput input = Input("bn");
  input.x = View(x, {4, 2});
  NORMD_ASSERT_OK(Train(input));
  EXPECT_NEAR(y_[1], 4 / std::sqrt(1 + 1e-5), 1e-13);
  EXPECT_TRUE(std::isnan(y_[3]));
}

TEST_F(TrainStepTest, AFoldThatWouldOverflowIsRefused) {
  const auto make = [&](const std::string& name, NonFinitePolicy policy) {
    MakeLayer(name, 1, "standard_scaler", [&](LayerConfig& c) { c.non_finite_policy = policy; });
    const std::vector<double> low(2, -1e200);
    const std::vector<double> high(2, 1e200);
    TrainStepInput input = Input(name);
    input.x = View(low, {2, 1});
    EXPECT_THAT(TrainStep(registry_, input, control_, nullptr), IsOk());
    input.x = View(high, {2, 1});
    return TrainStep(registry_, input, control_, nullptr);
  };
  EXPECT_THAT(make("reject", NonFinitePolicy::kReject),
              StatusIs(StatusCode::kInvalidArgument, "layer 'reject': folding x in would make running_mean[0]"));
  EXPECT_EQ(Get("reject")->version, 2);
  EXPECT_THAT(make("skip", NonFinitePolicy::kSkipChannel), StatusIs(StatusCode::kInvalidArgument));
  EXPECT_THAT(make("propagate", NonFinitePolicy::kPropagate), IsOk());
}

TEST_F(TrainStepTest, AnUpdateWeightOfOneHealsAPoisonedChannel) {
  MakeLayer("bn", 2, "reference", [](LayerConfig& c) {
    c.non_finite_policy = NonFinitePolicy::kPropagate;
    c.update_weight = 1;
  });
  std::vector<double> x = x_;
  x[3] = kNaN;
  TrainStepInput input = Input("bn");
  input.x = View(x, {4, 2});
  NORMD_ASSERT_OK(Train(input));
  EXPECT_TRUE(std::isnan(Get("bn")->statistics->running_mean[1]));
  NORMD_ASSERT_OK(Train(Input("bn")));
  EXPECT_THAT(Get("bn")->statistics->running_mean, ElementsAre(2.5, 10));
}

TEST_F(TrainStepTest, ACancelledCallChangesNothing) {
  const auto before = MakeLayer("bn", 2);
  for (const int dies_at : {1, 2}) {
    int asked = 0;
    control_.check_alive = [&] { return ++asked == dies_at ? absl::CancelledError("gone") : absl::OkStatus(); };
    TrainStepInput input = Input("bn");
    input.request_id = "step";
    input.gamma = {2, 2};
    input.beta = {1, 1};
    EXPECT_THAT(Train(input), StatusIs(StatusCode::kCancelled, "gone"));
    EXPECT_EQ(asked, dies_at);
    EXPECT_EQ(Get("bn"), before);
  }
  // Nothing was remembered either: the same id does its work now.
  control_.check_alive = nullptr;
  TrainStepInput input = Input("bn");
  input.request_id = "step";
  NORMD_ASSERT_OK_AND_ASSIGN(const auto result, Train(input));
  EXPECT_FALSE(result.replayed);
  EXPECT_EQ(result.num_batches_tracked, 1);
}

TEST_F(TrainStepTest, ARetryFoldsNothingTwice) {
  MakeLayer("bn", 2);
  TrainStepInput input = Input("bn");
  input.request_id = "step";
  NORMD_ASSERT_OK_AND_ASSIGN(const auto first, Train(input));
  const std::vector<double> first_y = y_;
  NORMD_ASSERT_OK(Train(Input("bn")));
  NORMD_ASSERT_OK(Train(Input("bn")));
  const auto before = Get("bn");

  y_.assign(8, 0);
  NORMD_ASSERT_OK_AND_ASSIGN(const auto retry, Train(input));
  EXPECT_TRUE(retry.replayed);
  EXPECT_EQ(retry.version, first.version);
  EXPECT_EQ(retry.content_hash, first.content_hash);
  EXPECT_EQ(retry.num_batches_tracked, 1);
  EXPECT_EQ(retry.batch_mean, first.batch_mean);
  EXPECT_EQ(y_, first_y);
  EXPECT_EQ(Get("bn"), before);

  // Present gamma and beta go into a retry's output.
  layer::StateUpdate state;
  state.gamma = {3, 3};
  state.beta = {0, 0};
  NORMD_ASSERT_OK(registry_.SetState("bn", state, 0, ""));
  NORMD_ASSERT_OK(Train(input));
  EXPECT_NEAR(y_[0], 3 * first_y[0], 1e-13);
}

TEST_F(TrainStepTest, AnIdMeansOneContent) {
  MakeLayer("bn", 2);
  TrainStepInput input = Input("bn");
  input.request_id = "step";
  NORMD_ASSERT_OK(Train(input));
  const auto before = Get("bn");
  std::vector<double> other = x_;
  other[0] = 1.5;
  const std::function<void(TrainStepInput&)> changes[] = {
      [&](TrainStepInput& i) {
        i.x = View(other, {4, 2});
      },
      [](TrainStepInput& i) {
        i.x.shape = {2, 2, 2};
      },
      [](TrainStepInput& i) {
        i.gamma = i.beta = {1, 1};
      },
  };
  for (const auto& change : changes) {
    TrainStepInput changed = input;
    change(changed);
    EXPECT_THAT(Train(changed),
                StatusIs(StatusCode::kInvalidArgument, "layer 'bn': request_id 'step' was used before"));
  }
  EXPECT_EQ(Get("bn"), before);
}

TEST_F(TrainStepTest, SettingsThatChangeUnderTheCallAreTheOnesItUses) {
  MakeLayer("bn", 2);
  // Asked a first time, the call has looked at the layer; the second time it is inside its commit.
  int asked = 0;
  control_.check_alive = [&] {
    if (asked++ > 0) return absl::OkStatus();
    return registry_.Update("bn", {.values = {.eps = 8}, .fields = {"eps"}}, "", "").status();
  };
  NORMD_ASSERT_OK_AND_ASSIGN(const auto result, Train(Input("bn")));
  ExpectOutput({2.5, 10}, {1.25, 30}, {.eps = 8});
  EXPECT_EQ(result.version, 3);
}

}  // namespace
}  // namespace normd::registry
