// What becomes of layers and remembered requests when somebody sets the wall clock, while the server runs and while it
// is off.

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "tests/server/registry/registry_fixture.h"

namespace normd::registry {
namespace {

constexpr absl::Duration kDay = absl::Hours(24);
constexpr absl::Duration kTenYears = absl::Hours(24 * 3652);

class ClockJumpTest : public tests::RegistryTest {
 protected:
  void SetUp() override { MakeLayer("a", 1, "standard_scaler"); }

  static TrainStepResult Step(LayerRegistry& registry, const std::string& request_id) {
    const std::vector<double> values = {1, 3};
    TrainStepInput input;
    input.layer = "a";
    input.request_id = request_id;
    input.x = tests::View(values, {2, 1});
    absl::StatusOr<TrainStepResult> result = TrainStep(registry, input, {}, nullptr);
    EXPECT_THAT(result, tests::IsOk());
    return result.ok() ? *std::move(result) : TrainStepResult{};
  }
  TrainStepResult Step(const std::string& request_id) { return Step(registry_, request_id); }
};

// A jump, there and back or the other way round.
class ClockJumpBothWaysTest : public ClockJumpTest, public ::testing::WithParamInterface<absl::Duration> {};

INSTANTIATE_TEST_SUITE_P(Jumps, ClockJumpBothWaysTest,
                         ::testing::Values(-kDay, kDay + absl::Seconds(1), -kTenYears, kTenYears));

TEST_P(ClockJumpBothWaysTest, StepsGoOnAndNoRetryIsForgotten) {
  int64_t version = Get("a")->version;
  std::vector<std::string> ids;
  for (int i = 0; i < 5; ++i) {
    ids.push_back(absl::StrCat("step", i));
    const TrainStepResult step = Step(ids.back());
    EXPECT_FALSE(step.replayed);
    EXPECT_EQ(step.version, ++version);
    // A time for people, not an order: it is what the clock says.
    EXPECT_EQ(Get("a")->update_time, clock_.Now());
    clock_.Advance(absl::Seconds(1));
    for (const std::string& id : ids) EXPECT_TRUE(Step(id).replayed) << id;
    clock_.Jump(i % 2 == 0 ? GetParam() : -GetParam());
    for (const std::string& id : ids) EXPECT_TRUE(Step(id).replayed) << id;
  }
  EXPECT_EQ(Get("a")->version, version);
  EXPECT_EQ(Get("a")->statistics->sample_count[0], 10);
}

TEST_P(ClockJumpBothWaysTest, TheWindowIsTimeThatPassed) {
  Step("old");
  clock_.Jump(GetParam());
  clock_.Advance(kDay);
  Step("new");
  EXPECT_TRUE(Step("old").replayed);
  clock_.Advance(absl::Seconds(1));
  Step("newer");
  EXPECT_FALSE(Step("old").replayed);
  EXPECT_TRUE(Step("new").replayed);
}

TEST_P(ClockJumpBothWaysTest, WhatIsRememberedStaysWithinTheWindow) {
  std::atomic<int64_t> total = 0;
  RequestLog log({.window = kDay}, &clock_, &total);
  const auto record = [&](const std::string& id) {
    store::Update update;
    log.Prepare("uid", id, {}, &update);
    log.Record(update);
  };
  for (int hour = 0; hour < 200; ++hour) {
    record(absl::StrCat("id", hour));
    EXPECT_LE(total, 25);
    clock_.Advance(absl::Hours(1));
    if (hour % 20 == 0) clock_.Jump(hour % 40 == 0 ? GetParam() : -GetParam());
  }
  EXPECT_EQ(total, 25);
}

TEST_F(ClockJumpTest, AStoreFromTheFutureIsAsIfJustWritten) {
  clock_.Jump(kTenYears);
  const TrainStepResult before = Step("future");
  const absl::Time then = Get("a")->update_time;
  clock_.Jump(-kTenYears);

  LayerRegistry restarted({}, clock_, &store_);
  ASSERT_THAT(restarted.Load(), tests::IsOk());
  EXPECT_EQ((*restarted.Get("a"))->update_time, then);
  EXPECT_TRUE(Step(restarted, "future").replayed);
  const TrainStepResult after = Step(restarted, "now");
  EXPECT_EQ(after.version, before.version + 1);
  EXPECT_EQ((*restarted.Get("a"))->update_time, clock_.Now());
  // Remembered for the window, and not for ten years.
  clock_.Advance(kDay);
  Step(restarted, "later");
  EXPECT_TRUE(Step(restarted, "future").replayed);
  clock_.Advance(absl::Seconds(1));
  Step(restarted, "latest");
  EXPECT_FALSE(Step(restarted, "future").replayed);
}

// The clock ran ten years behind, or the server was off so long: that cannot be told apart.
TEST_F(ClockJumpTest, AStoreFromThePastIsForgottenByTheFirstChange) {
  const TrainStepResult before = Step("past");
  clock_.Jump(kTenYears);
  LayerRegistry restarted({}, clock_, &store_);
  ASSERT_THAT(restarted.Load(), tests::IsOk());
  EXPECT_TRUE(Step(restarted, "past").replayed);
  EXPECT_EQ(Step(restarted, "now").version, before.version + 1);
  EXPECT_FALSE(Step(restarted, "past").replayed);
}

}  // namespace
}  // namespace normd::registry
