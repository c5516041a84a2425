#include <gtest/gtest.h>

#include <barrier>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/server/registry/registry_fixture.h"
#include "tests/status_matchers.h"

// Layers made of others, with gamma and beta of their own or shared.
namespace normd::registry {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::StatusIs;
using tests::View;

class ForkTest : public tests::RegistryTest {
 protected:
  // A step on a [2, 1] batch with these values.
  absl::StatusOr<TrainStepResult> Step(const std::string& layer, double a, double b) {
    const std::vector<double> x = {a, b};
    TrainStepInput input;
    input.layer = layer;
    input.x = View(x, {2, 1});
    return TrainStep(registry_, input, control_, nullptr);
  }
  // A step of plain SGD with learning rate 1 and dbeta = 2 * dy.
  absl::StatusOr<BackwardResult> Learn(const std::string& layer, double dy, const std::string& request_id = "") {
    const std::vector<double> x = {1, 3};
    const std::vector<double> grads = {dy, dy};
    BackwardInput input;
    input.layer = layer;
    input.x = View(x, {2, 1});
    input.dy = View(grads, {2, 1});
    input.batch_mean = {2};
    input.batch_var = {1};
    input.optimizer = OptimizerStep{SgdStep{.learning_rate = 1}};
    input.request_id = request_id;
    return Backward(registry_, input, control_, nullptr);
  }
  absl::StatusOr<SnapshotPtr> Fork(const std::string& name, const std::string& new_name, bool share_affine = false) {
    return registry_.Fork({.name = name,
                           .new_name = new_name,
                           .version = 0,
                           .share_affine = share_affine,
                           .reset_statistics = false,
                           .request_id = ""});
  }
  double Beta(const std::string& name) { return Get(name)->affine->beta[0]; }
};

TEST_F(ForkTest, AForkGoesItsOwnWay) {
  MakeLayer("bn", 1);
  NORMD_ASSERT_OK(Step("bn", 1, 3));
  NORMD_ASSERT_OK_AND_ASSIGN(const auto fork, Fork("bn", "client1.bn"));
  EXPECT_EQ(fork->version, 1);
  EXPECT_NE(fork->uid, Get("bn")->uid);
  EXPECT_EQ(fork->content_hash, Get("bn")->content_hash);
  EXPECT_EQ(fork->statistics->num_batches_tracked, 1);
  NORMD_ASSERT_OK(Step("client1.bn", 10, 30));
  NORMD_ASSERT_OK(Learn("client1.bn", 1));
  EXPECT_EQ(Get("bn")->version, 2);
  EXPECT_EQ(Beta("bn"), 0);
  EXPECT_EQ(Beta("client1.bn"), -2);
}

TEST_F(ForkTest, StartsFromAnEarlierVersionOrWithFreshStatistics) {
  MakeLayer("bn", 1);
  NORMD_ASSERT_OK(Step("bn", 1, 3));
  NORMD_ASSERT_OK(Step("bn", 5, 7));
  ForkSpec spec{.name = "bn",
                .new_name = "old",
                .version = 2,
                .share_affine = false,
                .reset_statistics = false,
                .request_id = "r"};
  NORMD_ASSERT_OK_AND_ASSIGN(const auto old, registry_.Fork(spec));
  EXPECT_EQ(old->statistics->num_batches_tracked, 1);
  NORMD_ASSERT_OK_AND_ASSIGN(const auto again, registry_.Fork(spec));
  EXPECT_EQ(again->uid, old->uid);
  spec = {.name = "bn",
          .new_name = "fresh",
          .version = 0,
          .share_affine = false,
          .reset_statistics = true,
          .request_id = ""};
  NORMD_ASSERT_OK_AND_ASSIGN(const auto fresh, registry_.Fork(spec));
  EXPECT_EQ(*fresh->statistics, layer::Statistics::Initial(*fresh->config));
  // A layer of the same settings and state has the same hash.
  MakeLayer("new", 1);
  EXPECT_EQ(fresh->content_hash, Get("new")->content_hash);
}

TEST_F(ForkTest, SharedGammaAndBetaChangeForAllTogether) {
  MakeLayer("bn", 1);
  NORMD_ASSERT_OK(Fork("bn", "day", true));
  NORMD_ASSERT_OK(Fork("day", "night", true));
  NORMD_ASSERT_OK(Fork("bn", "alone"));
  EXPECT_EQ(Get("night")->affine_group, Get("bn")->affine_group);
  EXPECT_TRUE(Get("alone")->affine_group.empty());

  NORMD_ASSERT_OK(Step("day", 1, 3));
  EXPECT_EQ(Get("night")->statistics->num_batches_tracked, 0);
  NORMD_ASSERT_OK_AND_ASSIGN(const auto learned, Learn("day", 1, "r"));
  EXPECT_EQ(learned.version, 3);
  for (const char* name : {"bn", "day", "night"}) EXPECT_EQ(Beta(name), -2) << name;
  EXPECT_EQ(Beta("alone"), 0);
  EXPECT_EQ(Get("night")->version, 2);
  EXPECT_EQ(Get("night")->optimizer->num_steps, 1);
  NORMD_ASSERT_OK_AND_ASSIGN(const auto replay, Learn("day", 1, "r"));
  EXPECT_TRUE(replay.replayed);
  EXPECT_EQ(Beta("night"), -2);

  // The others go on without one that is gone.
  NORMD_ASSERT_OK(registry_.Delete("day", "", ""));
  NORMD_ASSERT_OK(Learn("night", 1));
  EXPECT_EQ(Beta("bn"), -4);
  // Statistics were never shared.
  EXPECT_EQ(Get("bn")->statistics->num_batches_tracked, 0);
}

TEST_F(ForkTest, AFrozenMemberKeepsGammaAndBetaOfAll) {
  MakeLayer("bn", 1);
  NORMD_ASSERT_OK(Fork("bn", "other", true));
  ConfigUpdate freeze;
  freeze.values.frozen = true;
  freeze.fields = {"frozen"};
  NORMD_ASSERT_OK(registry_.Update("other", freeze, "", ""));
  EXPECT_THAT(Learn("bn", 1), StatusIs(StatusCode::kFailedPrecondition,
                                       "layer 'bn': shares gamma and beta with another one: layer 'other': is frozen"));
  EXPECT_EQ(Beta("bn"), 0);
  EXPECT_EQ(Get("bn")->version, 2);
  NORMD_ASSERT_OK(Step("bn", 1, 3));
  // A fork of a frozen layer is not.
  NORMD_ASSERT_OK(Fork("other", "third"));
  NORMD_ASSERT_OK(Step("third", 1, 3));
}

TEST_F(ForkTest, RefusesWhatCannotBe) {
  MakeLayer("bn", 1);
  MakeLayer("plain", 1, "standard_scaler", [](layer::LayerConfig& c) { c.affine = false; });
  EXPECT_THAT(Fork("nobody", "x"), StatusIs(StatusCode::kNotFound, "layer 'nobody': does not exist"));
  EXPECT_THAT(Fork("bn", "plain"), StatusIs(StatusCode::kAlreadyExists, "layer 'plain': exists already"));
  EXPECT_THAT(Fork("bn", "a..b"), StatusIs(StatusCode::kInvalidArgument));
  EXPECT_THAT(Fork("plain", "x", true), StatusIs(StatusCode::kInvalidArgument, "layer 'plain': has no gamma and beta"));
  EXPECT_THAT(registry_.Fork({.name = "bn",
                              .new_name = "x",
                              .version = 9,
                              .share_affine = false,
                              .reset_statistics = false,
                              .request_id = ""}),
              StatusIs(StatusCode::kFailedPrecondition, "layer 'bn': is at version 1, want 9"));
  EXPECT_THAT(registry_.Fork({.name = "bn",
                              .new_name = "x",
                              .version = 1,
                              .share_affine = true,
                              .reset_statistics = false,
                              .request_id = ""}),
              StatusIs(StatusCode::kInvalidArgument, "version is 1, want none with share_affine"));
  EXPECT_EQ(registry_.size(), 2);
  EXPECT_EQ(Get("bn")->version, 1);
}

// Steps on single layers and on the group at the same time: every one counts, once.
TEST_F(ForkTest, ConcurrentStepsOfAGroupAllCount) {
  MakeLayer("bn", 1);
  constexpr int kThreads = 4;
  constexpr int kSteps = 100;
  std::vector<std::string> names = {"bn"};
  for (int t = 1; t < kThreads; ++t) {
    names.push_back(absl::StrCat("fork", t));
    NORMD_ASSERT_OK(Fork("bn", names.back(), true));
  }
  std::vector<std::thread> threads;
  for (const std::string& name : names) {
    threads.emplace_back([&] {
      for (int i = 0; i < kSteps; ++i) {
        EXPECT_THAT(Step(name, 1, 3), IsOk());
        EXPECT_THAT(Learn(name, 1), IsOk());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& name : names) {
    EXPECT_EQ(Beta(name), -2 * kSteps * kThreads) << name;
    EXPECT_EQ(Get(name)->statistics->num_batches_tracked, kSteps);
  }
}

// A layer that is deleted while it gets its first fork may be in a group by then: steps of the fork do not meet it
// half-way out.
TEST_F(ForkTest, ALayerMayBeDeletedWhileItIsForked) {
  // Who comes first is chance: as many rounds as it takes.
  constexpr int kMinRounds = 300;
  constexpr int kMinForked = 10;
  int forked = 0;
  for (int round = 0; round < kMinRounds || forked < kMinForked; ++round) {
    const std::string source = absl::StrCat("bn", round);
    const std::string fork = absl::StrCat("fork", round);
    MakeLayer(source, 1);
    std::barrier together(3);
    std::thread forker([&] {
      together.arrive_and_wait();
      forked += Fork(source, fork, true).ok() ? 1 : 0;
    });
    std::thread deleter([&] {
      together.arrive_and_wait();
      EXPECT_THAT(registry_.Delete(source, "", ""), IsOk());
    });
    together.arrive_and_wait();
    while (registry_.Get(source).ok()) {
      if (!registry_.Get(fork).ok()) continue;
      EXPECT_THAT(Learn(fork, 1), IsOk()) << round;
    }
    forker.join();
    deleter.join();
    if (registry_.Get(fork).ok()) {
      EXPECT_THAT(registry_.Delete(fork, "", ""), IsOk());
    }
  }
}

}  // namespace
}  // namespace normd::registry
