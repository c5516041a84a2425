#include "server/registry/optimizer.h"

#include <cmath>
#include <string>
#include <vector>

#include "tests/non_finite.h"
#include "tests/status_matchers.h"

namespace normd::registry {
namespace {

using absl::StatusCode;
using layer::Affine;
using layer::OptimizerState;
using tests::IsOk;
using tests::kInf;
using tests::kNaN;
using tests::StatusIs;

const std::vector<std::vector<double>> kDgammas = {{0.5, -1.0}, {0.25, 2.0}, {-1.5, 0.125}};
const std::vector<std::vector<double>> kDbetas = {{1.0, 0.0}, {-2.0, 0.5}, {0.75, 3.0}};

Affine Start() { return {.gamma = {1, -2}, .beta = {0.5, 0}}; }

// Three steps from Start() with the gradients above; the numbers are those of torch.optim of PyTorch 1.13.1 in float64.
TEST(OptimizerTest, GivesPyTorchsNumbers) {
  const struct {
    std::string name;
    OptimizerStep step;
    std::vector<double> want;  // gamma, then beta
  } cases[] = {
      {"SGD", SgdStep{.learning_rate = 0.1}, {1.075, -2.1125000000000003, 0.5250000000000001, -0.35000000000000003}},
      {"SGD, weight decay",
       SgdStep{.learning_rate = 0.1, .weight_decay = 0.01},
       {1.072127949, -2.106505898, 0.5235013995000001, -0.34995}},
      {"SGD, momentum", SgdStep{.learning_rate = 0.1, .momentum = 0.9}, {0.967, -2.1214999999999997, 0.534, -0.395}},
      {"SGD, momentum, dampening, weight decay",
       SgdStep{.learning_rate = 0.1, .momentum = 0.9, .dampening = 0.5, .weight_decay = 0.01},
       {0.9116933872499999, -1.9170742744999998, 0.379561049875, -0.19748750000000004}},
      {"SGD, Nesterov, weight decay",
       SgdStep{.learning_rate = 0.1, .momentum = 0.9, .nesterov = true, .weight_decay = 0.01},
       {1.037869708191, -2.206086916382, 0.5518895646705, -0.7053195000000001}},
      {"Adam",
       AdamStep{.learning_rate = 0.1},
       {0.8415043907981822, -1.9684337378859402, 0.44311441578108945, -0.1468786721876984}},
      {"Adam, weight decay",
       AdamStep{.learning_rate = 0.1, .beta1 = 0.8, .beta2 = 0.95, .eps = 1e-4, .weight_decay = 0.1},
       {0.8397548643235229, -1.9507594766699217, 0.4423794781736764, -0.15500433175164485}},
      {"AdamW",
       AdamStep{.learning_rate = 0.1, .weight_decay = 0.1, .decoupled_weight_decay = true},
       {0.8147255703736075, -1.9106556343413195, 0.4298878122364687, -0.14613453538517354}},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    ASSERT_THAT(ValidateOptimizer(c.step), IsOk());
    OptimizerState state;
    Affine affine = Start();
    for (size_t t = 0; t < kDgammas.size(); ++t)
      ApplyOptimizer(c.step, kDgammas[t], kDbetas[t], false, &state, &affine);
    EXPECT_NEAR(affine.gamma[0], c.want[0], 1e-15 * 4);
    EXPECT_NEAR(affine.gamma[1], c.want[1], 1e-15 * 4);
    EXPECT_NEAR(affine.beta[0], c.want[2], 1e-15 * 4);
    EXPECT_NEAR(affine.beta[1], c.want[3], 1e-15 * 4);
    EXPECT_EQ(state.num_steps, 3);
  }
}

TEST(OptimizerTest, StartsAnewWhenTheKindChanges) {
  const OptimizerStep adam = AdamStep{.learning_rate = 0.1};
  const OptimizerStep sgd = SgdStep{.learning_rate = 0.1, .momentum = 0.9};
  OptimizerState state;
  Affine affine = Start();
  ApplyOptimizer(adam, kDgammas[0], kDbetas[0], false, &state, &affine);
  EXPECT_EQ(state.kind, OptimizerState::Kind::kAdam);

  OptimizerState fresh;
  Affine expected = affine;
  ApplyOptimizer(sgd, kDgammas[1], kDbetas[1], false, &fresh, &expected);
  ApplyOptimizer(sgd, kDgammas[1], kDbetas[1], false, &state, &affine);
  EXPECT_EQ(state, fresh);
  EXPECT_EQ(affine, expected);
  EXPECT_TRUE(state.gamma_second_moment.empty());
}

TEST(OptimizerTest, PlainDescentKeepsNoBuffer) {
  OptimizerState state;
  Affine affine = Start();
  ApplyOptimizer(SgdStep{.learning_rate = 0.1}, kDgammas[0], kDbetas[0], false, &state, &affine);
  EXPECT_TRUE(state.gamma_momentum.empty());
  EXPECT_TRUE(state.beta_momentum.empty());
}

TEST(OptimizerTest, ANonFiniteGradientLeavesItsChannelAlone) {
  const OptimizerStep steps[] = {SgdStep{.learning_rate = 0.1, .momentum = 0.9, .weight_decay = 0.1},
                                 AdamStep{.learning_rate = 0.1, .weight_decay = 0.1}};
  for (const OptimizerStep& step : steps) {
    OptimizerState state;
    Affine affine = Start();
    ApplyOptimizer(step, kDgammas[0], kDbetas[0], true, &state, &affine);
    const OptimizerState state_before = state;
    const Affine before = affine;
    // One of the two is enough.
    ApplyOptimizer(step, {1.0, 1.0}, {1.0, kInf}, true, &state, &affine);
    EXPECT_NE(affine.gamma[0], before.gamma[0]);
    EXPECT_EQ(affine.gamma[1], before.gamma[1]);
    EXPECT_EQ(affine.beta[1], before.beta[1]);
    EXPECT_EQ(state.gamma_momentum[1], state_before.gamma_momentum[1]);
    EXPECT_EQ(state.beta_momentum[1], state_before.beta_momentum[1]);

    ApplyOptimizer(step, {1.0, kNaN}, {1.0, 1.0}, false, &state, &affine);
    EXPECT_TRUE(std::isnan(affine.gamma[1]));
    EXPECT_TRUE(std::isfinite(affine.gamma[0]));
  }
}

TEST(OptimizerTest, RefusesSettingsOutOfRange) {
  const struct {
    OptimizerStep step;
    std::string message;
  } cases[] = {
      {SgdStep{.learning_rate = -1}, "sgd.learning_rate is -1, want a finite number >= 0"},
      {SgdStep{.learning_rate = kInf}, "sgd.learning_rate is inf"},
      {SgdStep{.learning_rate = kNaN}, "sgd.learning_rate is nan"},
      {SgdStep{.learning_rate = 1, .momentum = 1}, "sgd.momentum is 1, want a number in [0, 1)"},
      {SgdStep{.learning_rate = 1, .momentum = -0.1}, "sgd.momentum is -0.1"},
      {SgdStep{.learning_rate = 1, .dampening = 2}, "sgd.dampening is 2, want a number in [0, 1]"},
      {SgdStep{.learning_rate = 1, .weight_decay = -1}, "sgd.weight_decay is -1"},
      {SgdStep{.learning_rate = 1, .nesterov = true}, "want momentum > 0 and dampening 0"},
      {SgdStep{.learning_rate = 1, .momentum = 0.9, .dampening = 0.1, .nesterov = true},
       "sgd.nesterov is true with momentum 0.9 and dampening 0.1"},
      {AdamStep{.learning_rate = -1}, "adam.learning_rate is -1"},
      {AdamStep{.learning_rate = 1, .beta1 = 1}, "adam.beta1 is 1, want a number in [0, 1)"},
      {AdamStep{.learning_rate = 1, .beta2 = kNaN}, "adam.beta2 is nan"},
      {AdamStep{.learning_rate = 1, .eps = 0}, "adam.eps is 0, want a finite number > 0"},
      {AdamStep{.learning_rate = 1, .weight_decay = kInf}, "adam.weight_decay is inf"},
  };
  for (const auto& c : cases) {
    EXPECT_THAT(ValidateOptimizer(c.step), StatusIs(StatusCode::kInvalidArgument, c.message));
  }
}

}  // namespace
}  // namespace normd::registry
