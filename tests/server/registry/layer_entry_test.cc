#include "server/registry/layer_entry.h"

#include <atomic>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "server/layer/content_hash.h"
#include "tests/server/registry/registry_fixture.h"
#include "tests/status_matchers.h"

namespace normd::registry {
namespace {

using absl::StatusCode;
using layer::LayerSnapshot;
using tests::IsOk;
using tests::StatusIs;

class LayerEntryTest : public ::testing::Test {
 protected:
  static LayerEntry::SnapshotPtr First() {
    layer::LayerConfig config;
    config.num_channels = 1;
    auto first = std::make_shared<LayerSnapshot>();
    first->name = "bn1";
    first->config = std::make_shared<layer::LayerConfig>(config);
    first->statistics = std::make_shared<layer::Statistics>(layer::Statistics::Initial(config));
    first->affine = std::make_shared<layer::Affine>(layer::Affine::Initial(config));
    first->optimizer = std::make_shared<layer::OptimizerState>();
    first->contributors = std::make_shared<layer::Contributors>();
    first->content_hash = layer::ContentHash(config, *first->statistics, *first->affine);
    return first;
  }

  static absl::Status SetMean(LayerSnapshot& next, double mean) {
    auto statistics = std::make_shared<layer::Statistics>(*next.statistics);
    statistics->running_mean[0] = mean;
    statistics->num_batches_tracked += 1;
    next.statistics = std::move(statistics);
    return absl::OkStatus();
  }

  tests::FakeClock clock_;
  store::MemoryStore store_;
  Committer committer_{&store_};
  std::atomic<int64_t> remembered_ = 0;
  const std::shared_ptr<LayerEntry> owner_ =
      std::make_shared<LayerEntry>(First(), LayerContext{&clock_, &committer_, {}, &remembered_});
  LayerEntry& entry_ = *owner_;
};

TEST_F(LayerEntryTest, PublishesTheNextVersion) {
  const auto before = entry_.Snapshot();
  clock_.Advance(absl::Seconds(5));
  NORMD_ASSERT_OK_AND_ASSIGN(auto commit, entry_.Commit("", 0, [](LayerSnapshot& next) { return SetMean(next, 3); }));
  const auto after = entry_.Snapshot();
  EXPECT_EQ(commit.snapshot, after);
  EXPECT_FALSE(commit.replayed);
  EXPECT_EQ(after->version, 2);
  EXPECT_EQ(after->config_version, 1);
  EXPECT_EQ(after->update_time, clock_.Now());
  EXPECT_NE(after->content_hash, before->content_hash);
  EXPECT_EQ(after->content_hash, layer::ContentHash(*after->config, *after->statistics, *after->affine));
  EXPECT_EQ(commit.outcome.version, 2);
  EXPECT_EQ(commit.outcome.content_hash, after->content_hash);
  EXPECT_EQ(commit.outcome.num_batches_tracked, 1);
  // What the change left alone is shared.
  EXPECT_EQ(after->affine, before->affine);
  EXPECT_EQ(before->version, 1);
  EXPECT_EQ(before->statistics->running_mean[0], 0);
}

TEST_F(LayerEntryTest, AFailedChangeLeavesTheLayerAsItWas) {
  const auto before = entry_.Snapshot();
  EXPECT_THAT(entry_.Commit("r", 1,
                            [](LayerSnapshot& next) {
                              EXPECT_THAT(SetMean(next, 3), IsOk());
                              return absl::CancelledError("gone");
                            }),
              StatusIs(StatusCode::kCancelled, "gone"));
  EXPECT_EQ(entry_.Snapshot(), before);
  // The id is still free.
  NORMD_ASSERT_OK_AND_ASSIGN(auto commit, entry_.Commit("r", 2, [](LayerSnapshot& next) { return SetMean(next, 4); }));
  EXPECT_FALSE(commit.replayed);
}

TEST_F(LayerEntryTest, AChangeOfNothingMakesNoVersion) {
  const auto before = entry_.Snapshot();
  NORMD_ASSERT_OK_AND_ASSIGN(auto commit, entry_.Commit("r", 1, [](LayerSnapshot&) { return absl::OkStatus(); }));
  EXPECT_EQ(entry_.Snapshot(), before);
  EXPECT_EQ(commit.outcome.version, 1);
  NORMD_ASSERT_OK_AND_ASSIGN(commit, entry_.Commit("r", 1, [](LayerSnapshot&) { return absl::OkStatus(); }));
  EXPECT_TRUE(commit.replayed);
}

TEST_F(LayerEntryTest, AReplayRunsNothingAndAnswersWithTheFirstOutcome) {
  const auto set = [](double mean) { return [mean](LayerSnapshot& next) { return SetMean(next, mean); }; };
  NORMD_ASSERT_OK_AND_ASSIGN(auto first, entry_.Commit("r", 1, set(1)));
  NORMD_ASSERT_OK_AND_ASSIGN(auto second, entry_.Commit("s", 1, set(2)));
  NORMD_ASSERT_OK_AND_ASSIGN(auto replay, entry_.Commit("r", 1, [](LayerSnapshot&) -> absl::Status {
    ADD_FAILURE() << "ran again";
    return absl::OkStatus();
  }));
  EXPECT_TRUE(replay.replayed);
  EXPECT_EQ(replay.outcome.version, 2);
  EXPECT_EQ(replay.outcome.content_hash, first.outcome.content_hash);
  EXPECT_EQ(replay.snapshot->version, 3);
  EXPECT_EQ(replay.snapshot, second.snapshot);
  EXPECT_THAT(entry_.Commit("r", 2, set(9)), StatusIs(StatusCode::kInvalidArgument, "layer 'bn1': request_id 'r'"));
}

TEST_F(LayerEntryTest, ReadersDoNotWaitForARunningCommit) {
  std::promise<void> inside;
  std::promise<void> go_on;
  std::thread writer([&] {
    EXPECT_THAT(entry_.Commit("", 0,
                              [&](LayerSnapshot& next) {
                                inside.set_value();
                                go_on.get_future().wait();
                                return SetMean(next, 8);
                              }),
                IsOk());
  });
  inside.get_future().wait();
  // The commit is running and cannot end before this thread says so.
  EXPECT_EQ(entry_.Snapshot()->version, 1);
  EXPECT_FALSE(entry_.IsDeleted());
  go_on.set_value();
  writer.join();
  EXPECT_EQ(entry_.Snapshot()->version, 2);
}

TEST_F(LayerEntryTest, NoCommitComesAfterTheEnd) {
  EXPECT_THAT(entry_.MarkDeleted([](const LayerSnapshot&) { return absl::AbortedError("not this one"); }),
              StatusIs(StatusCode::kAborted));
  EXPECT_FALSE(entry_.IsDeleted());
  EXPECT_THAT(entry_.MarkDeleted([](const LayerSnapshot&) { return absl::OkStatus(); }), IsOk());
  EXPECT_TRUE(entry_.IsDeleted());
  EXPECT_THAT(entry_.Commit("", 0, [](LayerSnapshot& next) { return SetMean(next, 8); }),
              StatusIs(StatusCode::kNotFound, "layer 'bn1': has been deleted"));
  EXPECT_THAT(entry_.MarkDeleted([](const LayerSnapshot&) { return absl::OkStatus(); }),
              StatusIs(StatusCode::kNotFound));
  EXPECT_EQ(entry_.Snapshot()->version, 1);
}

}  // namespace
}  // namespace normd::registry
