#include <cmath>
#include <string>
#include <vector>

#include "tests/non_finite.h"
#include "tests/server/registry/registry_fixture.h"

namespace normd::registry {
namespace {

using absl::StatusCode;
using layer::LayerConfig;
using layer::NonFinitePolicy;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using tests::IsOk;
using tests::kInf;
using tests::kNaN;
using tests::StatusIs;
using tests::View;
using Mode = BackwardInput::Mode;

// Numbers of torch.nn.functional.batch_norm of PyTorch 1.13.1 in float64, with gamma (2, -1), beta (0.5, 3), eps 1e-5.
const std::vector<double> kTrainingDx = {0.7155394272999691,  0.22935879566115944,  0.31304844354270794,
                                         -0.3054313388597866, -2.7727133801524073,  0.07569219761797355,
                                         1.7441255093097303,  0.0003803455806536471};
const std::vector<double> kTrainingDgamma = {-0.11180295166407725, 0.7759401604756361};
// Running mean (1, 2), variance (9, 16).
const std::vector<double> kFrozenDx = {0.33333314814830245, 0.2499999218750366,  0.16666657407415122,
                                       -0.4999998437500732, -0.9999994444449074, -0.031249990234379577,
                                       0.6666662962966049,  -0.18749994140627746};
const std::vector<double> kFrozenDgamma = {0.08333328703707561, 4.812498496094455};
const std::vector<double> kDbeta = {0.25, 1.875};

void ExpectNear(const std::vector<double>& got, const std::vector<double>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 2e-15 * (1 + std::abs(want[i]))) << i;
}

class BackwardTest : public tests::RegistryTest {
 protected:
  BackwardTest() { Make("bn"); }

  void Make(const std::string& name, const std::function<void(LayerConfig&)>& change = nullptr) {
    const auto layer = MakeLayer(name, 2, "reference", change);
    layer::StateUpdate state;
    if (layer->config->track_running_stats) {
      state.running_mean = {1, 2};
      state.running_var = {9, 16};
    }
    if (layer->config->affine) {
      state.gamma = {2, -1};
      state.beta = {0.5, 3};
    }
    EXPECT_THAT(registry_.SetState(name, state, 0, ""), IsOk());
  }
  BackwardInput Input(const std::string& layer, Mode mode = Mode::kTraining) const {
    BackwardInput input;
    input.layer = layer;
    input.mode = mode;
    input.x = View(x_, {4, 2});
    input.dy = View(dy_, {4, 2});
    if (mode == Mode::kTraining) {
      input.batch_mean = {2.5, 10};
      input.batch_var = {1.25, 30};
    }
    return input;
  }
  absl::StatusOr<BackwardResult> Run(const BackwardInput& input) {
    return Backward(registry_, input, control_, Bytes(&dx_));
  }

  std::vector<double> x_ = {1, 4, 2, 6, 3, 12, 4, 18};
  std::vector<double> dy_ = {.5, -1, .25, 2, -1.5, .125, 1, .75};
  std::vector<double> dx_ = std::vector<double>(8, -777);
};

TEST_F(BackwardTest, GivesPyTorchsGradients) {
  const auto before = Get("bn");
  NORMD_ASSERT_OK_AND_ASSIGN(auto result, Run(Input("bn")));
  ExpectNear(dx_, kTrainingDx);
  ExpectNear(result.dgamma, kTrainingDgamma);
  ExpectNear(result.dbeta, kDbeta);
  EXPECT_THAT(result.gamma, IsEmpty());
  EXPECT_EQ(result.version, before->version);
  EXPECT_EQ(result.content_hash, before->content_hash);

  NORMD_ASSERT_OK_AND_ASSIGN(result, Run(Input("bn", Mode::kFrozen)));
  ExpectNear(dx_, kFrozenDx);
  ExpectNear(result.dgamma, kFrozenDgamma);
  ExpectNear(result.dbeta, kDbeta);
  EXPECT_EQ(Get("bn"), before);
}

TEST_F(BackwardTest, TakesTheGammaOfTheForwardPass) {
  layer::StateUpdate state;
  state.gamma = {7, 7};
  state.beta = {0, 0};
  NORMD_ASSERT_OK(registry_.SetState("bn", state, 0, ""));
  BackwardInput input = Input("bn");
  input.gamma = {2, -1};
  NORMD_ASSERT_OK_AND_ASSIGN(const auto result, Run(input));
  ExpectNear(dx_, kTrainingDx);
  ExpectNear(result.dgamma, kTrainingDgamma);
}

TEST_F(BackwardTest, WithoutAffineThereAreNoParameterGradients) {
  Make("plain", [](LayerConfig& c) { c.affine = false; });
  NORMD_ASSERT_OK_AND_ASSIGN(const auto result, Run(Input("plain")));
  EXPECT_THAT(result.dgamma, IsEmpty());
  EXPECT_THAT(result.dbeta, IsEmpty());
  EXPECT_NEAR(dx_[0], kTrainingDx[0] / 2, 1e-15);
  EXPECT_NEAR(dx_[1], -kTrainingDx[1], 1e-15);
}

TEST_F(BackwardTest, AppliesAnOptimizerStep) {
  BackwardInput input = Input("bn");
  input.optimizer = SgdStep{.learning_rate = 0.1};
  NORMD_ASSERT_OK_AND_ASSIGN(const auto result, Backward(registry_, input, control_, nullptr));
  ExpectNear(result.gamma, {2 - 0.1 * kTrainingDgamma[0], -1 - 0.1 * kTrainingDgamma[1]});
  ExpectNear(result.beta, {0.5 - 0.1 * kDbeta[0], 3 - 0.1 * kDbeta[1]});
  const auto after = Get("bn");
  EXPECT_EQ(after->affine->gamma, result.gamma);
  EXPECT_EQ(after->affine->beta, result.beta);
  EXPECT_EQ(after->version, 3);
  EXPECT_EQ(result.version, 3);
  EXPECT_EQ(result.content_hash, after->content_hash);
  EXPECT_EQ(after->optimizer->num_steps, 1);

  // The buffers live on until SetState forgets them.
  layer::StateUpdate forget;
  forget.reset_optimizer = true;
  NORMD_ASSERT_OK_AND_ASSIGN(const auto reset, registry_.SetState("bn", forget, 0, ""));
  EXPECT_EQ(*reset->optimizer, layer::OptimizerState());
  EXPECT_EQ(reset->affine, after->affine);
}

TEST_F(BackwardTest, RefusesWhatDoesNotFitAndChangesNothing) {
  Make("plain", [](LayerConfig& c) { c.affine = false; });
  Make("untracked", [](LayerConfig& c) { c.track_running_stats = false; });
  Make("running", [](LayerConfig& c) { c.normalize_training_with = layer::TrainingStatistics::kRunningAfterUpdate; });
  const struct {
    std::string name;
    Mode mode;
    std::function<void(BackwardInput&)> change;
    StatusCode code;
    std::string message;
  } cases[] = {
      {"nobody", Mode::kTraining, [](BackwardInput&) {}, StatusCode::kNotFound, "layer 'nobody': does not exist"},
      {"bn", Mode::kTraining,
       [](BackwardInput& i) {
         i.x.shape = {2, 4};
       },
       StatusCode::kInvalidArgument, "layer 'bn': x has 4 channels, want 2"},
      {"bn", Mode::kTraining,
       [](BackwardInput& i) {
         i.dy.shape = {2, 2, 2};
       },
       StatusCode::kInvalidArgument,
       "layer 'bn': dy is FLOAT64 [2,2,2] channels first, want that of x: FLOAT64 [4,2] channels first"},
      {"bn", Mode::kTraining, [](BackwardInput& i) { i.dy.dtype = layer::DType::kFloat32; },
       StatusCode::kInvalidArgument, "dy is FLOAT32 [4,2]"},
      {"bn", Mode::kTraining, [](BackwardInput& i) { i.dy.layout = layer::Layout::kChannelsLast; },
       StatusCode::kInvalidArgument, "dy is FLOAT64 [4,2] channels last"},
      {"bn", Mode::kTraining, [](BackwardInput& i) { i.dy.data = i.dy.data.subspan(8); }, StatusCode::kInvalidArgument,
       "layer 'bn': dy has 56 bytes of data, want 64"},
      {"bn", Mode::kTraining, [](BackwardInput& i) { i.batch_mean = {}; }, StatusCode::kInvalidArgument,
       "layer 'bn': batch_mean has 0 entries, want 2"},
      {"bn", Mode::kTraining,
       [](BackwardInput& i) {
         i.batch_var = {1, 1, 1};
       },
       StatusCode::kInvalidArgument, "batch_var has 3 entries, want 2"},
      {"bn", Mode::kTraining, [](BackwardInput& i) { i.batch_var[1] = -1; }, StatusCode::kInvalidArgument,
       "batch_var[1] is -1, want >= 0 or NaN"},
      {"bn", Mode::kTraining, [](BackwardInput& i) { i.version = 1; }, StatusCode::kInvalidArgument,
       "version is 1, want none in training mode"},
      {"bn", Mode::kTraining, [](BackwardInput& i) { i.gamma = {1}; }, StatusCode::kInvalidArgument,
       "gamma has 1 entries, want 2"},
      {"bn", Mode::kTraining, [](BackwardInput& i) { i.optimizer = SgdStep{.learning_rate = -1}; },
       StatusCode::kInvalidArgument, "layer 'bn': sgd.learning_rate is -1"},
      {"bn", Mode::kTraining,
       [](BackwardInput& i) { i.optimizer = SgdStep{.learning_rate = 1e308, .weight_decay = 9}; },
       StatusCode::kInvalidArgument, "layer 'bn': the optimizer's step would make gamma[0]"},
      {"bn", Mode::kTraining, [](BackwardInput& i) { i.request_id.assign(200, 'r'); }, StatusCode::kInvalidArgument,
       "layer 'bn': request_id"},
      {"bn", Mode::kFrozen,
       [](BackwardInput& i) {
         i.batch_mean = i.batch_var = {1, 1};
       },
       StatusCode::kInvalidArgument, "batch_mean and batch_var have 2 and 2 entries, want none in frozen mode"},
      {"bn", Mode::kFrozen, [](BackwardInput& i) { i.version = 3; }, StatusCode::kFailedPrecondition,
       "layer 'bn': is at version 2, want 3"},
      {"plain", Mode::kTraining,
       [](BackwardInput& i) {
         i.gamma = {1, 1};
       },
       StatusCode::kInvalidArgument, "layer 'plain': gamma has 2 entries, want none"},
      {"plain", Mode::kTraining, [](BackwardInput& i) { i.optimizer = SgdStep{.learning_rate = 1}; },
       StatusCode::kFailedPrecondition, "layer 'plain': has no gamma and beta for an optimizer"},
      {"untracked", Mode::kFrozen, [](BackwardInput&) {}, StatusCode::kFailedPrecondition,
       "layer 'untracked': keeps no running statistics"},
      {"running", Mode::kTraining, [](BackwardInput&) {}, StatusCode::kFailedPrecondition,
       "layer 'running': normalizes training with its running statistics"},
  };
  for (const auto& c : cases) {
    BackwardInput input = Input(c.name, c.mode);
    c.change(input);
    EXPECT_THAT(Run(input), StatusIs(c.code, c.message));
    for (const char* name : {"bn", "plain", "untracked", "running"}) EXPECT_EQ(Get(name)->version, 2);
  }
  EXPECT_THAT(Run(Input("untracked")), IsOk());
  EXPECT_THAT(Run(Input("running", Mode::kFrozen)), IsOk());
}

TEST_F(BackwardTest, FollowsTheNonFinitePolicy) {
  for (const double bad : {kNaN, kInf}) {
    for (std::vector<double>* const tensor : {&x_, &dy_}) {
      const double good = (*tensor)[3];
      (*tensor)[3] = bad;  // Channel 1.
      const std::string suffix = std::to_string(registry_.size());
      BackwardInput input = Input("bn");
      input.optimizer = SgdStep{.learning_rate = 0.1, .weight_decay = 0.1};
      EXPECT_THAT(Run(input), StatusIs(StatusCode::kInvalidArgument,
                                       "layer 'bn': x or dy holds NaN or infinity in "
                                       "channel 1 (1 such channels"));
      EXPECT_EQ(Get("bn")->version, 2);

      input.layer = "skip" + suffix;
      Make(input.layer, [](LayerConfig& c) { c.non_finite_policy = NonFinitePolicy::kSkipChannel; });
      NORMD_ASSERT_OK_AND_ASSIGN(auto result, Run(input));
      ExpectNear({result.dgamma[0], result.dgamma[1]}, {kTrainingDgamma[0], 0});
      ExpectNear(result.dbeta, {kDbeta[0], 0});
      ExpectNear({dx_[0], dx_[1], dx_[2], dx_[3]}, {kTrainingDx[0], 0, kTrainingDx[2], 0});
      EXPECT_NE(result.gamma[0], 2);
      EXPECT_EQ(result.gamma[1], -1);
      EXPECT_EQ(result.beta[1], 3);

      input.layer = "propagate" + suffix;
      Make(input.layer, [](LayerConfig& c) { c.non_finite_policy = NonFinitePolicy::kPropagate; });
      NORMD_ASSERT_OK_AND_ASSIGN(result, Run(input));
      EXPECT_FALSE(std::isfinite(result.gamma[1]));
      EXPECT_TRUE(std::isfinite(result.gamma[0]));
      (*tensor)[3] = good;
    }
  }
}

TEST_F(BackwardTest, AChannelThatTrainStepSkippedGetsNoGradientAndNoStep) {
  BackwardInput input = Input("bn");
  input.batch_mean[1] = input.batch_var[1] = kNaN;
  x_[3] = kNaN;
  input.optimizer = AdamStep{.learning_rate = 0.1, .weight_decay = 0.1};
  NORMD_ASSERT_OK_AND_ASSIGN(const auto result, Run(input));
  ExpectNear(result.dgamma, {kTrainingDgamma[0], 0});
  ExpectNear(result.dbeta, {kDbeta[0], 0});
  EXPECT_EQ(dx_[3], 0);
  EXPECT_EQ(result.gamma[1], -1);
  EXPECT_EQ(result.beta[1], 3);
  EXPECT_NE(result.gamma[0], 2);
}

TEST_F(BackwardTest, ARetryTakesNoSecondStep) {
  for (const Mode mode : {Mode::kTraining, Mode::kFrozen}) {
    BackwardInput input = Input("bn", mode);
    input.optimizer = AdamStep{.learning_rate = 0.1};
    input.request_id = mode == Mode::kTraining ? "t" : "f";
    NORMD_ASSERT_OK_AND_ASSIGN(const auto first, Run(input));
    // In frozen mode the statistics, and with them the gradients, may have moved on.
    TrainStepInput train;
    train.layer = "bn";
    train.x = View(x_, {4, 2});
    NORMD_ASSERT_OK(TrainStep(registry_, train, control_, nullptr));
    const auto before = Get("bn");
    NORMD_ASSERT_OK_AND_ASSIGN(const auto retry, Run(input));
    EXPECT_TRUE(retry.replayed);
    EXPECT_EQ(retry.version, first.version);
    EXPECT_EQ(retry.content_hash, first.content_hash);
    EXPECT_EQ(retry.gamma, first.gamma);
    EXPECT_EQ(Get("bn"), before);

    input.optimizer = AdamStep{.learning_rate = 0.2};
    EXPECT_THAT(Run(input), StatusIs(StatusCode::kInvalidArgument, "was used before for another call"));
    input.optimizer = AdamStep{.learning_rate = 0.1};
    dy_[0] += 1;
    EXPECT_THAT(Run(input), StatusIs(StatusCode::kInvalidArgument, "was used before for another call"));
    dy_[0] -= 1;
  }
}

TEST_F(BackwardTest, ARetryOfAPinnedStepIsRecognised) {
  BackwardInput input = Input("bn", Mode::kFrozen);
  input.optimizer = SgdStep{.learning_rate = 0.1};
  input.version = 2;
  input.request_id = "step";
  NORMD_ASSERT_OK_AND_ASSIGN(const auto first, Run(input));
  EXPECT_EQ(first.version, 3);
  NORMD_ASSERT_OK_AND_ASSIGN(const auto retry, Run(input));
  EXPECT_TRUE(retry.replayed);
  EXPECT_EQ(retry.version, 3);
  EXPECT_EQ(retry.dgamma, first.dgamma);

  NORMD_ASSERT_OK(registry_.ResetStatistics("bn", 0, ""));
  EXPECT_THAT(Run(input), StatusIs(StatusCode::kFailedPrecondition, "was applied before and made version 3"));
  input.request_id = "another";
  EXPECT_THAT(Run(input), StatusIs(StatusCode::kFailedPrecondition, "is at version 4, want 2"));
  EXPECT_EQ(Get("bn")->version, 4);
}

TEST_F(BackwardTest, ACancelledCallChangesNothing) {
  const auto before = Get("bn");
  for (const int dies_at : {1, 2}) {
    int asked = 0;
    control_.check_alive = [&] { return ++asked == dies_at ? absl::CancelledError("gone") : absl::OkStatus(); };
    BackwardInput input = Input("bn");
    input.optimizer = SgdStep{.learning_rate = 0.1};
    EXPECT_THAT(Run(input), StatusIs(StatusCode::kCancelled, "gone"));
    EXPECT_EQ(Get("bn"), before);
  }
}

}  // namespace
}  // namespace normd::registry
