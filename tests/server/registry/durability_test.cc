#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/registry/layer_entry.h"
#include "server/registry/merge_moments.h"
#include "server/registry/training.h"
#include "server/store/memory_store.h"
#include "tests/server/registry/registry_fixture.h"
#include "tests/status_matchers.h"

// What becomes of changes when the store is slow, fails, or is opened again.
namespace normd::registry {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::StatusIs;

// A store like one that waits for the disk: it stands still until it is told to go on, and can be told to fail.
class GatedStore final : public store::StateStore {
 public:
  absl::Status Load(absl::FunctionRef<absl::Status(SnapshotPtr)> layer,
                    absl::FunctionRef<absl::Status(store::RequestRecord)> request) override {
    return memory_.Load(layer, request);
  }
  absl::Status Write(absl::Span<const store::Update> updates) override {
    std::unique_lock<std::mutex> lock(mutex_);
    ++arrived_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_ || passes_ > 0; });
    if (!open_) --passes_;
    sizes_.push_back(updates.size());
    if (fails_ > 0) {
      --fails_;
      return absl::ResourceExhaustedError("the disk is full");
    }
    return memory_.Write(updates);
  }
  absl::StatusOr<std::vector<store::GoneLayer>> ListGone() override { return memory_.ListGone(); }
  absl::StatusOr<std::vector<store::SnapshotInfo>> ListSnapshots() override { return memory_.ListSnapshots(); }
  absl::Status ReadSnapshot(const std::string& name, absl::FunctionRef<absl::Status(SnapshotPtr)> layer) override {
    return memory_.ReadSnapshot(name, layer);
  }
  bool waits_for_disk() const override { return true; }

  void Close() {
    Set([this] { open_ = false; });
  }
  void Open() {
    Set([this] { open_ = true; });
  }
  // Lets one Write through.
  void Pass() {
    Set([this] { ++passes_; });
  }
  // The next Write fails.
  void Fail() {
    Set([this] { ++fails_; });
  }
  // Waits until so many Writes have come since the last call.
  void AwaitWrites(int count) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return arrived_ >= count; });
    arrived_ -= count;
  }
  std::vector<std::size_t> sizes() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return sizes_;
  }

 private:
  template <typename F>
  void Set(F f) {
    const std::lock_guard<std::mutex> lock(mutex_);
    f();
    changed_.notify_all();
  }

  store::MemoryStore memory_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = true;
  int passes_ = 0;
  int fails_ = 0;
  int arrived_ = 0;
  std::vector<std::size_t> sizes_;
};

class DurabilityTest : public ::testing::Test {
 protected:
  DurabilityTest() {
    layer::LayerConfig config = layer::PresetConfig("standard_scaler").value();
    config.num_channels = 1;
    for (const char* name : {"a", "b"}) {
      CreateLayerSpec spec;
      spec.name = name;
      spec.config = config;
      EXPECT_THAT(registry_.Create(spec), IsOk());
    }
    gate_.AwaitWrites(2);
  }
  ~DurabilityTest() override { gate_.Open(); }

  // A training step with these values, of which nobody has waited for the store.
  TrainStepResult Step(const std::string& layer, const std::vector<double>& values,
                       const std::string& request_id = "") {
    absl::StatusOr<TrainStepResult> result = TryStep(layer, values, request_id);
    EXPECT_THAT(result, IsOk());
    return result.ok() ? *std::move(result) : TrainStepResult{};
  }

  absl::StatusOr<TrainStepResult> TryStep(const std::string& layer, const std::vector<double>& values,
                                          const std::string& request_id) {
    TrainStepInput input;
    input.layer = layer;
    input.request_id = request_id;
    input.x = {.dtype = layer::DType::kFloat64,
               .shape = {static_cast<int64_t>(values.size()), 1},
               .layout = {},
               .data = absl::MakeConstSpan(reinterpret_cast<const char*>(values.data()), values.size() * 8)};
    return TrainStep(registry_, input, {}, nullptr);
  }

  double Count(const LayerRegistry& registry, const std::string& layer) {
    return (*registry.Get(layer))->statistics->sample_count[0];
  }

  tests::FakeClock clock_;
  GatedStore gate_;
  LayerRegistry registry_{{}, clock_, &gate_};
};

TEST_F(DurabilityTest, ReadersSeeAVersionOnlyWhenItIsStored) {
  gate_.Close();
  const TrainStepResult step = Step("a", {1, 2});
  gate_.AwaitWrites(1);
  EXPECT_EQ(step.version, 2);
  ASSERT_NE(step.stored, nullptr);
  EXPECT_FALSE(step.stored->resolved());
  EXPECT_EQ((*registry_.Get("a"))->version, 1);
  gate_.Open();
  EXPECT_THAT(WaitFor(step.stored), IsOk());
  EXPECT_EQ((*registry_.Get("a"))->version, 2);
}

TEST_F(DurabilityTest, WhatComesMeanwhileIsWrittenTogether) {
  gate_.Close();
  std::vector<TrainStepResult> steps = {Step("a", {1})};
  gate_.AwaitWrites(1);
  for (int i = 0; i < 10; ++i) steps.push_back(Step(i % 2 == 0 ? "a" : "b", {1.0 * i}));
  gate_.Open();
  for (const TrainStepResult& step : steps) EXPECT_THAT(WaitFor(step.stored), IsOk());
  const std::vector<std::size_t> sizes = gate_.sizes();
  EXPECT_EQ(sizes.back(), 10);
  EXPECT_EQ(sizes[sizes.size() - 2], 1);
  EXPECT_EQ(Count(registry_, "a"), 6);
  EXPECT_EQ(Count(registry_, "b"), 5);
}

TEST_F(DurabilityTest, WhatCannotBeStoredIsTakenBackWithAllThatFollowsIt) {
  EXPECT_THAT(WaitFor(Step("a", {7}, "kept").stored), IsOk());
  gate_.AwaitWrites(1);
  gate_.Close();
  gate_.Fail();
  const TrainStepResult first = Step("a", {1}, "r1");
  gate_.AwaitWrites(1);
  const TrainStepResult second = Step("a", {2}, "r2");
  const TrainStepResult other = Step("b", {3}, "r3");
  EXPECT_EQ(second.version, 4);
  gate_.Open();
  EXPECT_THAT(WaitFor(first.stored),
              StatusIs(StatusCode::kResourceExhausted, "layer 'a': nothing has changed: the disk is full"));
  EXPECT_THAT(WaitFor(second.stored),
              StatusIs(StatusCode::kUnavailable, "layer 'a': nothing has changed: an earlier change"));
  EXPECT_THAT(WaitFor(other.stored), IsOk());
  EXPECT_EQ((*registry_.Get("a"))->version, 2);

  // The ids are free, and the retries are applied, once each.
  for (int i = 0; i < 3; ++i) {
    for (const auto& [value, id] : {std::pair(1.0, "r1"), std::pair(2.0, "r2"), std::pair(7.0, "kept")}) {
      const TrainStepResult retry = Step("a", {value}, id);
      EXPECT_EQ(retry.replayed, i > 0 || id == std::string("kept"));
      EXPECT_THAT(WaitFor(retry.stored), IsOk());
    }
  }
  EXPECT_EQ(Count(registry_, "a"), 3);
  EXPECT_EQ((*registry_.Get("a"))->statistics->running_mean[0], 10.0 / 3);
}

TEST_F(DurabilityTest, ARetryWaitsForTheFirstApplication) {
  gate_.Close();
  const TrainStepResult first = Step("a", {1}, "r");
  gate_.AwaitWrites(1);
  Step("a", {5});
  const TrainStepResult retry = Step("a", {1}, "r");
  EXPECT_TRUE(retry.replayed);
  EXPECT_EQ(retry.version, first.version);
  EXPECT_EQ(retry.stored, first.stored);
  gate_.Open();
}

// Whatever the retry is of, it shows nothing of what waits for the store.
TEST_F(DurabilityTest, ARetryOfWhatIsStoredIsAnsweredWithWhatIsStored) {
  layer::StateUpdate state;
  state.running_mean = {5};
  state.running_var = {2};
  state.sample_count = {1};
  const auto set = [&] { return registry_.SetState("a", state, 0, "set"); };
  const auto reset = [&] { return registry_.ResetStatistics("a", 0, "reset"); };
  ConfigUpdate update;
  update.values.eps = 0.5;
  update.fields = {"eps"};
  const auto configure = [&] { return registry_.Update("a", update, "", "update"); };
  const MergeMomentsInput merge = {.layer = "a",
                                   .moments = {.count = {1}, .mean = {1}, .m2 = {0}},
                                   .contributor = "",
                                   .sequence = 0,
                                   .request_id = "merge"};
  EXPECT_THAT(set(), IsOk());
  EXPECT_THAT(reset(), IsOk());
  EXPECT_THAT(configure(), IsOk());
  const auto merged = MergeMoments(registry_, merge, {});
  ASSERT_THAT(merged, IsOk());
  EXPECT_THAT(WaitFor(merged->stored), IsOk());
  gate_.AwaitWrites(4);
  gate_.Close();
  const TrainStepResult waiting = Step("a", {7}, "waits");
  gate_.AwaitWrites(1);
  EXPECT_EQ(waiting.version, 6);
  for (const auto& answer : {set(), reset(), configure()}) {
    ASSERT_THAT(answer, IsOk());
    EXPECT_EQ((*answer)->version, 5);
  }
  const auto again = MergeMoments(registry_, merge, {});
  ASSERT_THAT(again, IsOk());
  EXPECT_TRUE(again->replayed);
  EXPECT_EQ(again->stored, nullptr);
  EXPECT_EQ(again->snapshot->version, 5);
  gate_.Open();
  EXPECT_THAT(WaitFor(waiting.stored), IsOk());
  EXPECT_EQ((*set())->version, 6);
}

TEST_F(DurabilityTest, ADeletionThatCannotBeStoredLeavesTheLayer) {
  gate_.Fail();
  EXPECT_THAT(registry_.Delete("a", "", "d"), StatusIs(StatusCode::kResourceExhausted));
  EXPECT_THAT(registry_.Get("a"), IsOk());
  EXPECT_THAT(registry_.Delete("a", "", "d"), IsOk());
  EXPECT_THAT(registry_.Get("a"), StatusIs(StatusCode::kNotFound));
}

TEST_F(DurabilityTest, ACreationThatCannotBeStoredLeavesNothing) {
  gate_.Fail();
  CreateLayerSpec spec;
  spec.name = "new";
  spec.config.num_channels = 1;
  spec.request_id = "c";
  EXPECT_THAT(registry_.Create(spec), StatusIs(StatusCode::kResourceExhausted));
  EXPECT_THAT(registry_.Get("new"), StatusIs(StatusCode::kNotFound));
  EXPECT_THAT(registry_.Create(spec), IsOk());
}

TEST_F(DurabilityTest, AMergeAndItsContributorAreStoredTogether) {
  const MergeMomentsInput input{.layer = "a",
                                .moments = {.count = {2}, .mean = {1}, .m2 = {2}},
                                .contributor = "actor",
                                .sequence = 5,
                                .request_id = ""};
  gate_.Close();
  const auto first = MergeMoments(registry_, input, {});
  const auto again = MergeMoments(registry_, input, {});
  ASSERT_THAT(first, IsOk());
  ASSERT_THAT(again, IsOk());
  EXPECT_FALSE(first->replayed);
  EXPECT_TRUE(again->replayed);
  // A repetition may not say that it is done before the first is stored.
  ASSERT_NE(again->stored, nullptr);
  EXPECT_FALSE(again->stored->resolved());
  EXPECT_EQ((*registry_.Get("a"))->version, 1);
  gate_.Open();
  EXPECT_THAT(WaitFor(first->stored), IsOk());
  EXPECT_THAT(WaitFor(again->stored), IsOk());
  EXPECT_EQ(Count(registry_, "a"), 2);

  LayerRegistry restarted({}, clock_, &gate_);
  ASSERT_THAT(restarted.Load(), IsOk());
  const auto late = MergeMoments(restarted, input, {});
  ASSERT_THAT(late, IsOk());
  EXPECT_TRUE(late->replayed);
  EXPECT_EQ(Count(restarted, "a"), 2);
}

TEST_F(DurabilityTest, AnotherRegistryGoesOnWithAllOfIt) {
  const TrainStepResult step = Step("a", {1, 3}, "r");
  EXPECT_THAT(WaitFor(step.stored), IsOk());
  CreateLayerSpec spec;
  spec.name = "new";
  spec.config.num_channels = 2;
  spec.request_id = "c";
  EXPECT_THAT(registry_.Create(spec), IsOk());
  EXPECT_THAT(registry_.Delete("b", "", "d"), IsOk());

  LayerRegistry restarted({}, clock_, &gate_);
  ASSERT_THAT(restarted.Load(), IsOk());
  EXPECT_EQ(restarted.size(), 2);
  EXPECT_EQ((*restarted.Get("a"))->version, 2);
  EXPECT_EQ((*restarted.Get("a"))->content_hash, (*registry_.Get("a"))->content_hash);
  EXPECT_EQ((*restarted.Create(spec))->uid, (*registry_.Get("new"))->uid);
  EXPECT_THAT(restarted.Delete("b", "", "d"), IsOk());
  EXPECT_THAT(restarted.Delete("b", "", "another"), StatusIs(StatusCode::kNotFound));

  std::vector<double> values = {1, 3};
  TrainStepInput input;
  input.layer = "a";
  input.request_id = "r";
  input.x = {.dtype = layer::DType::kFloat64,
             .shape = {2, 1},
             .layout = {},
             .data = absl::MakeConstSpan(reinterpret_cast<const char*>(values.data()), 16)};
  NORMD_ASSERT_OK_AND_ASSIGN(const TrainStepResult retry, TrainStep(restarted, input, {}, nullptr));
  EXPECT_TRUE(retry.replayed);
  EXPECT_EQ(retry.content_hash, step.content_hash);
  EXPECT_EQ(Count(restarted, "a"), 2);
  values[0] = 2;
  EXPECT_THAT(TrainStep(restarted, input, {}, nullptr),
              StatusIs(StatusCode::kInvalidArgument, "was used before for another call"));
}

// Many threads, now and then a write that fails: what was acknowledged is there, and nothing else.
TEST_F(DurabilityTest, ConcurrentStepsWithFailuresCountExactlyWhatWasStored) {
  constexpr int kThreads = 4;
  constexpr int kSteps = 300;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kSteps; ++i) {
        if (i % 50 == 7) gate_.Fail();
        const std::string id = absl::StrCat(t, "-", i);
        // Until it is stored.
        while (true) {
          const absl::StatusOr<TrainStepResult> step = TryStep("a", {1.0 * t}, id);
          if (step.ok() && WaitFor(step->stored).ok()) break;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Count(registry_, "a"), kThreads * kSteps);
  LayerRegistry restarted({}, clock_, &gate_);
  ASSERT_THAT(restarted.Load(), IsOk());
  EXPECT_EQ(Count(restarted, "a"), kThreads * kSteps);
}

}  // namespace
}  // namespace normd::registry
