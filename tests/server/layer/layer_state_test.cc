#include "server/layer/layer_state.h"

#include <functional>
#include <string>
#include <vector>

#include "tests/non_finite.h"
#include "tests/status_matchers.h"

namespace normd::layer {
namespace {

using absl::StatusCode;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using tests::IsOk;
using tests::kInf;
using tests::kNaN;
using tests::StatusIs;

LayerConfig TwoChannels() {
  LayerConfig config;
  config.num_channels = 2;
  return config;
}

StateUpdate Full() {
  StateUpdate update;
  update.running_mean = {1, -2};
  update.running_var = {0, 4};
  update.sample_count = {1e-4, 10};
  update.num_batches_tracked = 3;
  update.skipped_batches = {0, 3};
  update.gamma = {1, -1};
  update.beta = {0, 5};
  return update;
}

TEST(LayerStateTest, StartsAtMeanZeroVarianceOne) {
  const Statistics statistics = Statistics::Initial(TwoChannels());
  EXPECT_THAT(statistics.running_mean, ElementsAre(0, 0));
  EXPECT_THAT(statistics.running_var, ElementsAre(1, 1));
  EXPECT_THAT(statistics.sample_count, ElementsAre(0, 0));
  EXPECT_EQ(statistics.num_batches_tracked, 0);
  EXPECT_THAT(statistics.skipped_batches, IsEmpty());
  const Affine affine = Affine::Initial(TwoChannels());
  EXPECT_THAT(affine.gamma, ElementsAre(1, 1));
  EXPECT_THAT(affine.beta, ElementsAre(0, 0));
}

TEST(LayerStateTest, IsEmptyWhereItDoesNotApply) {
  LayerConfig config = TwoChannels();
  config.affine = false;
  config.track_running_stats = false;
  EXPECT_EQ(Statistics::Initial(config), Statistics());
  EXPECT_EQ(Affine::Initial(config), Affine());
}

TEST(LayerStateTest, AcceptsWholeAndPartialUpdates) {
  const struct {
    std::string name;
    std::function<void(StateUpdate&)> change;
  } cases[] = {
      {"everything", [](StateUpdate&) {}},
      {"nothing", [](StateUpdate& u) { u = StateUpdate(); }},
      {"statistics only", [](StateUpdate& u) { u.gamma = u.beta = {}; }},
      {"no counts",
       [](StateUpdate& u) {
         u.sample_count = {};
         u.skipped_batches = {};
         u.num_batches_tracked = 0;
       }},
      {"affine only",
       [](StateUpdate& u) {
         u = StateUpdate();
         u.gamma = u.beta = {0, 0};
       }},
  };
  for (const auto& c : cases) {
    StateUpdate update = Full();
    c.change(update);
    EXPECT_THAT(ValidateStateUpdate(TwoChannels(), update), IsOk()) << c.name;
  }
}

TEST(LayerStateTest, NamesTheFieldThatDoesNotFit) {
  const struct {
    std::function<void(StateUpdate&)> change;
    std::string message;
  } cases[] = {
      {[](StateUpdate& u) { u.running_var = {}; }, "running_mean is given without running_var, want both or none"},
      {[](StateUpdate& u) { u.running_mean = {}; }, "running_var is given without running_mean, want both or none"},
      {[](StateUpdate& u) { u.running_mean = {1}; }, "running_mean has 1 entries, want 2 (num_channels)"},
      {[](StateUpdate& u) {
         u.running_var = {1, 1, 1};
       },
       "running_var has 3 entries, want 2"},
      {[](StateUpdate& u) { u.running_mean[1] = kNaN; }, "running_mean[1] is nan, want a finite number"},
      // As in MobileNet-Caffe's published weights.
      {[](StateUpdate& u) { u.running_var[1] = -9.9999e-06; },
       "running_var[1] is -9.9999e-06, want a finite number >= 0"},
      {[](StateUpdate& u) { u.running_var[0] = kInf; }, "running_var[0] is inf"},
      {[](StateUpdate& u) { u.sample_count[0] = -1; }, "sample_count[0] is -1, want a finite number >= 0"},
      {[](StateUpdate& u) { u.sample_count = {1}; }, "sample_count has 1 entries, want 2"},
      {[](StateUpdate& u) { u.num_batches_tracked = -1; }, "num_batches_tracked is -1, want >= 0"},
      {[](StateUpdate& u) { u.skipped_batches = {0}; }, "skipped_batches has 1 entries, want 2"},
      {[](StateUpdate& u) { u.skipped_batches[1] = 4; }, "skipped_batches[1] is 4, want 0 to num_batches_tracked (3)"},
      {[](StateUpdate& u) { u.skipped_batches[0] = -1; }, "skipped_batches[0] is -1"},
      {[](StateUpdate& u) { u.running_mean = u.running_var = {}; },
       "sample_count is given without running_mean and running_var, want them together"},
      {[](StateUpdate& u) {
         u = StateUpdate();
         u.num_batches_tracked = 7;
       },
       "num_batches_tracked is given without running_mean and running_var"},
      {[](StateUpdate& u) { u.beta = {}; }, "gamma is given without beta, want both or none"},
      {[](StateUpdate& u) { u.gamma = {}; }, "beta is given without gamma, want both or none"},
      {[](StateUpdate& u) {
         u.gamma = {1, 1, 1};
       },
       "gamma has 3 entries, want 2 (num_channels)"},
      {[](StateUpdate& u) { u.beta[0] = -kInf; }, "beta[0] is -inf, want a finite number"},
  };
  for (const auto& c : cases) {
    StateUpdate update = Full();
    c.change(update);
    EXPECT_THAT(ValidateStateUpdate(TwoChannels(), update), StatusIs(StatusCode::kInvalidArgument, c.message));
  }
}

TEST(LayerStateTest, RefusesPartsThatTheLayerDoesNotHave) {
  LayerConfig untracked = TwoChannels();
  untracked.track_running_stats = false;
  EXPECT_THAT(ValidateStateUpdate(untracked, Full()),
              StatusIs(StatusCode::kInvalidArgument, "want none: track_running_stats is false"));
  LayerConfig plain = TwoChannels();
  plain.affine = false;
  EXPECT_THAT(ValidateStateUpdate(plain, Full()), StatusIs(StatusCode::kInvalidArgument, "want none: affine is false"));
}

TEST(LayerStateTest, APooledLayerNeedsSampleCounts) {
  LayerConfig pooled = TwoChannels();
  pooled.averaging = Averaging::kPooled;
  EXPECT_THAT(ValidateStateUpdate(pooled, Full()), IsOk());
  StateUpdate update = Full();
  update.sample_count = {};
  EXPECT_THAT(ValidateStateUpdate(pooled, update),
              StatusIs(StatusCode::kInvalidArgument, "without sample_count, want it too: averaging POOLED"));
}

TEST(LayerStateTest, TheEtagFollowsSettingsAndIdentity) {
  LayerSnapshot a;
  a.uid = "u1";
  LayerSnapshot b = a;
  b.version = 9;
  b.content_hash = "other";
  EXPECT_EQ(a.Etag(), b.Etag());
  b.config_version = 2;
  EXPECT_NE(a.Etag(), b.Etag());
  b = a;
  b.uid = "u2";
  EXPECT_NE(a.Etag(), b.Etag());
}

}  // namespace
}  // namespace normd::layer
