#include "server/registry/layer_entry.h"

#include <atomic>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "server/layer/content_hash.h"
#include "server/registry/affine_groups.h"
#include "server/registry/recent_versions.h"
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
  ChangeGate gate_;
  AffineGroups groups_{&gate_, &committer_, [] { return absl::OkStatus(); }};
  WatchHub watchers_;
  std::atomic<int64_t> remembered_ = 0;
  std::atomic<int64_t> kept_bytes_ = 0;
  ActivityTotals totals_;
  const std::shared_ptr<LayerEntry> owner_ =
      std::make_shared<LayerEntry>(First(), std::make_unique<RequestLog>(RequestLimits{}, &clock_, &remembered_),
                                   LayerContext{&clock_,
                                                &committer_,
                                                &gate_,
                                                &groups_,
                                                &watchers_,
                                                {},
                                                &remembered_,
                                                {.per_layer = 3},
                                                &kept_bytes_,
                                                &totals_});
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
  NORMD_ASSERT_OK(entry_.Commit("r", 1, [](LayerSnapshot& next) { return SetMean(next, 7); }));
  EXPECT_THAT(entry_.MarkDeleted([](const LayerSnapshot&) { return absl::AbortedError("not this one"); }),
              StatusIs(StatusCode::kAborted));
  EXPECT_FALSE(entry_.IsDeleted());
  EXPECT_THAT(entry_.MarkDeleted([](const LayerSnapshot&) { return absl::OkStatus(); }), IsOk());
  EXPECT_TRUE(entry_.IsDeleted());
  EXPECT_THAT(entry_.Commit("", 0, [](LayerSnapshot& next) { return SetMean(next, 8); }),
              StatusIs(StatusCode::kNotFound, "layer 'bn1': has been deleted"));
  EXPECT_THAT(entry_.MarkDeleted([](const LayerSnapshot&) { return absl::OkStatus(); }),
              StatusIs(StatusCode::kNotFound));
  EXPECT_EQ(entry_.Snapshot()->version, 2);
  EXPECT_EQ(entry_.ReleaseRequests()->size(), 1);
}

TEST_F(LayerEntryTest, AFrozenLayerTakesOnlyTheChangeThatUnfreezesIt) {
  const auto freeze = [](bool frozen) {
    return [frozen](LayerSnapshot& next) {
      auto config = std::make_shared<layer::LayerConfig>(*next.config);
      config->frozen = frozen;
      next.config = std::move(config);
      return absl::OkStatus();
    };
  };
  const auto train = [](LayerSnapshot& next) { return SetMean(next, 3); };
  NORMD_ASSERT_OK(entry_.Commit("trained", 1, train));
  const std::string hash = entry_.Snapshot()->content_hash;
  NORMD_ASSERT_OK(entry_.Commit("", 0, freeze(true)));
  EXPECT_EQ(entry_.Snapshot()->version, 3);
  // It gives the same output as before.
  EXPECT_EQ(entry_.Snapshot()->content_hash, hash);
  EXPECT_THAT(entry_.Commit("late", 2, train),
              StatusIs(StatusCode::kFailedPrecondition, "layer 'bn1': is frozen at version 3"));
  EXPECT_EQ(entry_.Snapshot()->version, 3);
  // A retry of what was done before is answered, and so is a change of nothing.
  NORMD_ASSERT_OK_AND_ASSIGN(auto replay, entry_.Commit("trained", 1, train));
  EXPECT_TRUE(replay.replayed);
  NORMD_ASSERT_OK(entry_.Commit("", 0, [](LayerSnapshot&) { return absl::OkStatus(); }));
  NORMD_ASSERT_OK(entry_.Commit("", 0, freeze(false)));
  NORMD_ASSERT_OK(entry_.Commit("late", 2, train));
  EXPECT_EQ(entry_.Snapshot()->version, 5);
}

TEST_F(LayerEntryTest, KeepsTheLatestVersionsForReadersThatAskForOne) {
  for (int i = 2; i <= 6; ++i) {
    NORMD_ASSERT_OK(entry_.Commit("", 0, [i](LayerSnapshot& next) { return SetMean(next, i); }));
  }
  for (int64_t version = 3; version <= 6; ++version) {
    NORMD_ASSERT_OK_AND_ASSIGN(const auto kept, entry_.SnapshotAt(version));
    EXPECT_EQ(kept->version, version);
    EXPECT_EQ(kept->statistics->running_mean[0], version);
  }
  EXPECT_EQ(*entry_.SnapshotAt(0), entry_.Snapshot());
  EXPECT_THAT(entry_.SnapshotAt(2), StatusIs(StatusCode::kFailedPrecondition, "is at version 6, want 2"));
  EXPECT_THAT(entry_.SnapshotAt(7), StatusIs(StatusCode::kFailedPrecondition, "is at version 6, want 7"));
  EXPECT_THAT(entry_.SnapshotAt(-1), StatusIs(StatusCode::kInvalidArgument, "version is -1"));
  EXPECT_GT(kept_bytes_.load(), 3 * 512);
}

TEST(RecentVersionsTest, TogetherTheyStayWithinABudget) {
  std::atomic<int64_t> total = 0;
  const auto version = [](int64_t number) {
    auto snapshot = std::make_shared<LayerSnapshot>();
    snapshot->version = number;
    snapshot->statistics = std::make_shared<layer::Statistics>();
    snapshot->affine = std::make_shared<layer::Affine>();
    return snapshot;
  };
  {
    const VersionLimits limits{.per_layer = 10, .total_bytes = 2000};
    RecentVersions a(limits, &total);
    RecentVersions b(limits, &total);
    a.Add(version(1));
    a.Add(version(2));
    b.Add(version(1));
    EXPECT_NE(a.Find(1), nullptr);
    // The one that goes on gives up its own.
    EXPECT_EQ(b.Add(version(2))->version, 1);
    EXPECT_EQ(b.Find(1), nullptr);
    EXPECT_NE(b.Find(2), nullptr);
    EXPECT_NE(a.Find(1), nullptr);
    EXPECT_LE(total.load(), 2000);
    EXPECT_EQ(RecentVersions({.per_layer = 0, .total_bytes = 2000}, &total).Find(1), nullptr);
  }
  EXPECT_EQ(total.load(), 0);
}

}  // namespace
}  // namespace normd::registry
