// The same calls to a FakeServer and to a real one: whoever tests against the first must not be surprised by the
// second.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "normd/client.h"
#include "normd/testing/fake_server.h"
#include "server/layer/presets.h"
#include "tests/integration/test_server.h"
#include "tests/status_matchers.h"

namespace normd {
namespace {

using ::testing::Pointwise;

MATCHER(SameNumber, "") {
  const double got = std::get<0>(arg);
  const double want = std::get<1>(arg);
  return std::abs(got - want) <= 1e-12 * std::max(1.0, std::abs(want)) || (std::isnan(got) && std::isnan(want));
}

void ExpectSame(const absl::Status& fake, const absl::Status& real) {
  EXPECT_EQ(fake.code(), real.code()) << fake << "\n" << real;
}

void ExpectSame(const std::vector<double>& fake, const std::vector<double>& real) {
  EXPECT_THAT(fake, Pointwise(SameNumber(), real));
}

// Both have the kernels, so the bits are the same where the statistics are.
void ExpectSame(const Tensor& fake, const Tensor& real) {
  EXPECT_EQ(fake.shape(), real.shape());
  EXPECT_EQ(fake.dtype(), real.dtype());
  EXPECT_EQ(fake.layout(), real.layout());
  ExpectSame(fake.ToDoubles(), real.ToDoubles());
}

void ExpectSame(const LayerState& fake, const LayerState& real) {
  ExpectSame(fake.running_mean, real.running_mean);
  ExpectSame(fake.running_var, real.running_var);
  ExpectSame(fake.sample_count, real.sample_count);
  EXPECT_EQ(fake.num_batches_tracked, real.num_batches_tracked);
  ExpectSame(fake.gamma, real.gamma);
  ExpectSame(fake.beta, real.beta);
  ExpectSame(fake.inv_std, real.inv_std);
}

void ExpectSame(const Layer& fake, const Layer& real) {
  EXPECT_EQ(fake.name, real.name);
  EXPECT_EQ(fake.preset, real.preset);
  EXPECT_EQ(fake.version, real.version);
  EXPECT_EQ(fake.config.num_channels, real.config.num_channels);
  EXPECT_EQ(fake.config.eps, real.config.eps);
  EXPECT_EQ(fake.config.averaging, real.config.averaging);
  EXPECT_EQ(fake.config.update_weight, real.config.update_weight);
  EXPECT_EQ(fake.config.running_var_estimator, real.config.running_var_estimator);
  EXPECT_EQ(fake.config.normalize_training_with, real.config.normalize_training_with);
  EXPECT_EQ(fake.config.affine, real.config.affine);
  EXPECT_EQ(fake.config.track_running_stats, real.config.track_running_stats);
  EXPECT_EQ(fake.config.clip, real.config.clip);
  EXPECT_EQ(fake.config.non_finite_policy, real.config.non_finite_policy);
  EXPECT_EQ(fake.config.frozen, real.config.frozen);
  ASSERT_EQ(fake.state.has_value(), real.state.has_value());
  if (fake.state) ExpectSame(*fake.state, *real.state);
}

void ExpectSame(const LayerPage& fake, const LayerPage& real) {
  ASSERT_EQ(fake.layers.size(), real.layers.size());
  for (std::size_t i = 0; i < fake.layers.size(); ++i) ExpectSame(fake.layers[i], real.layers[i]);
  EXPECT_EQ(fake.next_page_token.empty(), real.next_page_token.empty());
}

void ExpectSame(const TrainStepResult& fake, const TrainStepResult& real) {
  ExpectSame(fake.y, real.y);
  ExpectSame(fake.batch_mean, real.batch_mean);
  ExpectSame(fake.batch_var, real.batch_var);
  EXPECT_EQ(fake.version, real.version);
  EXPECT_EQ(fake.num_batches_tracked, real.num_batches_tracked);
  EXPECT_EQ(fake.replayed, real.replayed);
}

void ExpectSame(const InferResult& fake, const InferResult& real) {
  ExpectSame(fake.output, real.output);
  EXPECT_EQ(fake.version, real.version);
}

void ExpectSame(const BackwardResult& fake, const BackwardResult& real) {
  ExpectSame(fake.dx, real.dx);
  ExpectSame(fake.dgamma, real.dgamma);
  ExpectSame(fake.dbeta, real.dbeta);
  ExpectSame(fake.gamma, real.gamma);
  ExpectSame(fake.beta, real.beta);
  EXPECT_EQ(fake.version, real.version);
  EXPECT_EQ(fake.replayed, real.replayed);
}

void ExpectSame(const MergeMomentsResult& fake, const MergeMomentsResult& real) {
  ExpectSame(fake.running_mean, real.running_mean);
  ExpectSame(fake.running_var, real.running_var);
  ExpectSame(fake.sample_count, real.sample_count);
  EXPECT_EQ(fake.version, real.version);
  EXPECT_EQ(fake.num_batches_tracked, real.num_batches_tracked);
  EXPECT_EQ(fake.replayed, real.replayed);
}

template <typename T>
void ExpectSame(const absl::StatusOr<T>& fake, const absl::StatusOr<T>& real) {
  ExpectSame(fake.status(), real.status());
  if (fake.ok() && real.ok()) ExpectSame(*fake, *real);
}

class FakeFidelityTest : public ::testing::Test {
 protected:
  // Makes a call to both; returns the real one's result.
  template <typename Call>
  auto Answer(const Call& call) {
    const auto fake = call(*fake_client_);
    auto real = call(*real_client_);
    ExpectSame(fake, real);
    return real;
  }
  template <typename Call>
  void Both(const Call& call) {
    (void)Answer(call);
  }

  void Create(const std::string& name, const LayerConfig& config, const std::string& preset = "") {
    LayerSpec spec;
    spec.name = name;
    spec.config = config;
    spec.preset = preset;
    ASSERT_THAT(Answer([&](Client& client) { return client.CreateLayer(spec); }), tests::IsOk());
  }

  // Everything that a trainer does, three times, and the layer after it.
  void TrainAndLookAt(const std::string& name, bool backward) {
    for (uint32_t step = 0; step < 3; ++step) {
      const std::vector<double> values = tests::SomeValues(24, step + 1);
      const TensorView x(absl::MakeConstSpan(values), {4, 2, 3});
      const std::vector<double> gradients = tests::SomeValues(24, step + 100);
      const TensorView dy(absl::MakeConstSpan(gradients), {4, 2, 3});
      const auto trained = Answer([&](Client& client) { return client.TrainStep(name, x); });
      ASSERT_THAT(trained, tests::IsOk());
      Both([&](Client& client) { return client.Infer(name, x); });
      Both([&](Client& client) { return client.Denormalize(name, dy); });
      BackwardOptions options;
      options.frozen = true;
      Both([&](Client& client) { return client.Backward(name, x, dy, options); });
      options.frozen = false;
      options.batch_mean = trained->batch_mean;
      options.batch_var = trained->batch_var;
      // Says FAILED_PRECONDITION where training does not normalize with the batch.
      Both([&](Client& client) { return client.Backward(name, x, dy, options); });
      if (backward) {
        options.optimizer = step == 2 ? decltype(options.optimizer)(Adam{.learning_rate = 0.1, .weight_decay = 0.01})
                                      : Sgd{.learning_rate = 0.1, .momentum = 0.9, .weight_decay = 0.01};
        Both([&](Client& client) { return client.Backward(name, x, dy, options); });
      }
    }
    Both([&](Client& client) { return client.GetLayer(name, /*with_state=*/true); });
  }

  tests::TestServer real_;
  testing::FakeServer fake_;
  std::unique_ptr<Client> real_client_ = Client::Connect(real_.address());
  std::unique_ptr<Client> fake_client_ = Client::Connect(fake_.target());
};

TEST_F(FakeFidelityTest, EveryPresetTrainsAlike) {
  for (const std::string& preset : layer::PresetNames()) {
    SCOPED_TRACE(preset);
    LayerConfig config;
    config.num_channels = 2;
    Create(preset, config, preset);
    const bool affine = preset != "standard_scaler" && preset != "rl_observation";
    TrainAndLookAt(preset, affine);
  }
  ListLayersOptions list;
  list.prefix = "keras";
  list.with_state = true;
  list.page_size = 1;
  const auto page = Answer([&](Client& client) { return client.ListLayers(list); });
  EXPECT_EQ(page->layers.size(), 1u);
}

TEST_F(FakeFidelityTest, SettingsTrainAlike) {
  for (const Averaging averaging : {Averaging::kExponential, Averaging::kCumulative, Averaging::kPooled}) {
    for (const VarianceEstimator estimator : {VarianceEstimator::kPopulation, VarianceEstimator::kSample}) {
      for (const TrainingStatistics with : {TrainingStatistics::kBatch, TrainingStatistics::kRunningBeforeUpdate,
                                            TrainingStatistics::kRunningAfterUpdate}) {
        LayerConfig config;
        config.num_channels = 2;
        config.averaging = averaging;
        config.running_var_estimator = estimator;
        config.normalize_training_with = with;
        config.clip = 1.5;
        const std::string name =
            absl::StrCat("l", static_cast<int>(averaging), static_cast<int>(estimator), static_cast<int>(with));
        SCOPED_TRACE(name);
        Create(name, config);
        TrainAndLookAt(name, with == TrainingStatistics::kBatch);
      }
    }
  }
}

TEST_F(FakeFidelityTest, LivesAlike) {
  LayerConfig config;
  config.num_channels = 2;
  Create("a", config);
  LayerSpec again;
  again.name = "a";
  again.config = config;
  Both([&](Client& client) { return client.CreateLayer(again); });
  LayerState state;
  state.running_mean = {1, 2};
  state.running_var = {3, 4};
  state.gamma = {5, 6};
  state.beta = {7, 8};
  Both([&](Client& client) { return client.SetState("a", state); });
  Both([&](Client& client) { return client.SetState("a", state, /*expected_version=*/1); });
  state.running_var = {3};
  Both([&](Client& client) { return client.SetState("a", state); });
  config.eps = 0.5;
  Both([&](Client& client) { return client.UpdateLayer("a", config, {"eps"}); });
  Both([&](Client& client) { return client.UpdateLayer("a", config, {"eps"}, "stale"); });
  Both([&](Client& client) { return client.UpdateLayer("a", config, {"affine"}); });
  Both([&](Client& client) { return client.UpdateLayer("a", config, {}); });
  Both([&](Client& client) { return client.GetLayer("a", true); });
  InferOptions pinned;
  pinned.version = 1;
  const std::vector<float> x = {1, 2, 3, 4};
  Both([&](Client& client) { return client.Infer("a", TensorView(x, {2, 2}), pinned); });
  pinned.version = 99;
  Both([&](Client& client) { return client.Infer("a", TensorView(x, {2, 2}), pinned); });

  config.frozen = true;
  Both([&](Client& client) { return client.UpdateLayer("a", config, {"frozen"}); });
  Both([&](Client& client) { return client.TrainStep("a", TensorView(x, {2, 2})); });
  Both([&](Client& client) { return client.ResetStatistics("a"); });
  TrainStepOptions skip;
  skip.skip_update = true;
  Both([&](Client& client) { return client.TrainStep("a", TensorView(x, {2, 2}), skip); });
  config.frozen = false;
  Both([&](Client& client) { return client.UpdateLayer("a", config, {"frozen"}); });
  Both([&](Client& client) { return client.ResetStatistics("a"); });
  Both([&](Client& client) { return client.GetLayer("a", true); });
  Both([&](Client& client) { return client.DeleteLayer("a"); });
  Both([&](Client& client) { return client.DeleteLayer("a"); });
  Both([&](Client& client) { return client.GetLayer("a"); });
}

TEST_F(FakeFidelityTest, RefusesAlike) {
  LayerConfig config;
  config.num_channels = 2;
  Create("a", config, "pytorch");
  const std::vector<float> x = {1, 2, 3, 4, 5, 6};
  Both([&](Client& client) { return client.Infer("a", TensorView(x, {2, 3})); });
  Both([&](Client& client) { return client.Infer("b", TensorView(x, {3, 2})); });
  Both([&](Client& client) { return client.Infer("a", TensorView(x, {6})); });
  // One value per channel.
  Both([&](Client& client) { return client.TrainStep("a", TensorView(absl::MakeConstSpan(x).subspan(0, 2), {1, 2})); });
  const std::vector<float> nan = {1, std::numeric_limits<float>::quiet_NaN(), 3, 4};
  Both([&](Client& client) { return client.TrainStep("a", TensorView(nan, {2, 2})); });
  TrainStepOptions half;
  half.gamma = {1, 2};
  Both([&](Client& client) { return client.TrainStep("a", TensorView(x, {3, 2}), half); });
  Both([&](Client& client) { return client.Backward("a", TensorView(x, {3, 2}), TensorView(x, {3, 2})); });
  // An optimizer without gamma and beta, and one at a version that is not the newest.
  Create("rl", config, "rl_observation");
  BackwardOptions options;
  options.frozen = true;
  options.optimizer = Sgd{.learning_rate = 0.1};
  Both([&](Client& client) { return client.Backward("rl", TensorView(x, {3, 2}), TensorView(x, {3, 2}), options); });
  Both([&](Client& client) { return client.TrainStep("a", TensorView(x, {3, 2})); });
  options.version = 1;
  Both([&](Client& client) { return client.Backward("a", TensorView(x, {3, 2}), TensorView(x, {3, 2}), options); });
  for (const char* name : {"", "a..b", "a b", ".a", "a."}) {
    LayerSpec spec;
    spec.name = name;
    spec.config = config;
    Both([&](Client& client) { return client.CreateLayer(spec); });
  }
  LayerSpec spec;
  spec.name = "c";
  Both([&](Client& client) { return client.CreateLayer(spec); });
  spec.config.num_channels = 1;
  spec.preset = "none";
  Both([&](Client& client) { return client.CreateLayer(spec); });
  spec.preset = "standard_scaler";
  spec.config.update_weight = 0.5;
  Both([&](Client& client) { return client.CreateLayer(spec); });
  Both([&](Client& client) { return client.GetLayer("a", true); });
}

TEST_F(FakeFidelityTest, RepeatsAlike) {
  LayerConfig config;
  config.num_channels = 2;
  Create("a", config);
  const std::vector<float> x = {1, 2, 3, 4};
  TrainStepOptions options;
  options.request_id = "id";
  options.gamma = {2, 3};
  options.beta = {4, 5};
  Both([&](Client& client) { return client.TrainStep("a", TensorView(x, {2, 2}), options); });
  const auto again = Answer([&](Client& client) { return client.TrainStep("a", TensorView(x, {2, 2}), options); });
  EXPECT_TRUE(again->replayed);
  // Another call under its name.
  Both([&](Client& client) { return client.TrainStep("a", TensorView(x, {1, 2, 2}), options); });
  Both([&](Client& client) { return client.GetLayer("a", true); });
}

TEST_F(FakeFidelityTest, MergesAlike) {
  for (const char* preset : {"reference", "pytorch", "rl_observation"}) {
    LayerConfig config;
    config.num_channels = 2;
    Create(preset, config, preset);
    MergeMomentsOptions options;
    options.contributor = "c";
    options.sequence = 5;
    const Moments moments = {.count = {3, 0}, .mean = {1.5, 0}, .m2 = {2, 0}};
    Both([&](Client& client) { return client.MergeMoments(preset, moments, options); });
    const auto again = Answer([&](Client& client) { return client.MergeMoments(preset, moments, options); });
    EXPECT_TRUE(again->replayed);
    const Moments more = {.count = {10, 20}, .mean = {-1, 7}, .m2 = {4, 8}};
    options.sequence = 6;
    Both([&](Client& client) { return client.MergeMoments(preset, more, options); });
    Both([&](Client& client) { return client.MergeMoments(preset, more); });
    Both([&](Client& client) {
      return client.MergeMoments(preset, Moments{.count = {0, 0}, .mean = {0, 0}, .m2 = {0, 0}});
    });
    Both([&](Client& client) { return client.MergeMoments(preset, Moments{.count = {1}, .mean = {0}, .m2 = {0}}); });
    Both([&](Client& client) { return client.GetLayer(preset, true); });
  }
}

}  // namespace
}  // namespace normd
