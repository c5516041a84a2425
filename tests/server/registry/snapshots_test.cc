#include "server/registry/snapshots.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/registry/merge_moments.h"
#include "server/store/open_store.h"
#include "tests/server/registry/registry_fixture.h"
#include "tests/status_matchers.h"

namespace normd::registry {
namespace {

using absl::StatusCode;
using ::testing::ElementsAre;
using tests::IsOk;
using tests::IsOkAndHolds;
using tests::StatusIs;
using tests::View;

// On both stores: the file is opened anew by Restart.
class SnapshotsTest : public ::testing::TestWithParam<std::string> {
 protected:
  SnapshotsTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "normd_snapshots_XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    if (GetParam() == "sqlite") options_.location = absl::StrCat("sqlite:", folder_, "/normd.db");
    Restart();
  }
  ~SnapshotsTest() override {
    snapshots_.reset();
    registry_.reset();
    store_.reset();
    std::filesystem::remove_all(folder_);
  }

  void Restart() {
    snapshots_.reset();
    registry_.reset();
    if (GetParam() == "sqlite" || store_ == nullptr) {
      store_.reset();
      store_ = store::OpenStore(options_).value();
    }
    registry_ = std::make_unique<LayerRegistry>(RegistryOptions{}, clock_, store_.get());
    EXPECT_THAT(registry_->Load(), IsOk());
    snapshots_ = std::make_unique<Snapshots>(registry_.get());
    EXPECT_THAT(snapshots_->Load(), IsOk());
  }

  void Make(const std::string& name) {
    CreateLayerSpec spec;
    spec.name = name;
    spec.preset = "pytorch";
    spec.config = layer::PresetConfig("standard_scaler").value();
    spec.config.affine = true;
    spec.config.num_channels = 1;
    EXPECT_THAT(registry_->Create(spec), IsOk());
  }
  // Counts one value.
  absl::StatusOr<TrainStepResult> Step(const std::string& layer, double value, const std::string& request_id = "") {
    const std::vector<double> x = {value};
    TrainStepInput input;
    input.layer = layer;
    input.x = View(x, {1, 1});
    input.request_id = request_id;
    return TrainStep(*registry_, input, {}, nullptr);
  }
  // Counts `count` values as this contributor.
  absl::StatusOr<MergeMomentsResult> Merge(const std::string& layer, int64_t count, int64_t sequence) {
    return MergeMoments(*registry_,
                        {.layer = layer,
                         .moments = {.count = {count}, .mean = {1}, .m2 = {0}},
                         .contributor = "actor",
                         .sequence = sequence,
                         .request_id = ""},
                        {});
  }
  double Count(const std::string& name) { return Get(name)->statistics->sample_count[0]; }
  LayerRegistry::SnapshotPtr Get(const std::string& name) { return registry_->Get(name).value(); }

  absl::StatusOr<store::SnapshotInfo> Create(const std::string& name, const std::string& layer = "",
                                             const std::string& prefix = "", const std::string& request_id = "") {
    return snapshots_->Create({.name = name, .layer = layer, .prefix = prefix, .request_id = request_id});
  }
  static RestoreSelection Renamed(const std::string& layer, const std::string& prefix, const std::string& new_name) {
    return {.layer = layer, .prefix = prefix, .new_name = new_name};
  }

  std::string folder_;
  store::StoreOptions options_;
  tests::FakeClock clock_;
  std::unique_ptr<store::StateStore> store_;
  std::unique_ptr<LayerRegistry> registry_;
  std::unique_ptr<Snapshots> snapshots_;
};

TEST_P(SnapshotsTest, BringsBackWhatWas) {
  Make("m.a");
  Make("m.b");
  Make("other");
  NORMD_ASSERT_OK(Step("m.a", 3));
  NORMD_ASSERT_OK_AND_ASSIGN(const auto info, Create("before", "", "m."));
  EXPECT_EQ(info.num_layers, 2);
  EXPECT_EQ(info.create_time, clock_.Now());
  const std::string hash = Get("m.a")->content_hash;
  NORMD_ASSERT_OK(Step("m.a", 9));
  NORMD_ASSERT_OK(Step("other", 9));
  Restart();
  EXPECT_THAT(snapshots_->List(""), ElementsAre(info));
  EXPECT_THAT(snapshots_->Restore("before", {}, ""), IsOkAndHolds(2));
  EXPECT_EQ(Get("m.a")->content_hash, hash);
  // Time goes on.
  EXPECT_EQ(Get("m.a")->version, 4);
  // What was the same stays as it is.
  EXPECT_EQ(Get("m.b")->version, 1);
  EXPECT_EQ(Get("other")->version, 2);
  Restart();
  EXPECT_EQ(Get("m.a")->content_hash, hash);
  EXPECT_EQ(Get("m.a")->version, 4);
  // The snapshot is still what it was.
  NORMD_ASSERT_OK(Step("m.a", 1));
  EXPECT_THAT(snapshots_->Restore("before", {.layer = "m.a", .prefix = "", .new_name = {}}, ""), IsOkAndHolds(1));
  EXPECT_EQ(Get("m.a")->content_hash, hash);
}

TEST_P(SnapshotsTest, ALateRetryCountsNothingAfterARestore) {
  Make("a");
  NORMD_ASSERT_OK(Step("a", 1, "in the snapshot"));
  NORMD_ASSERT_OK(Merge("a", 10, 1));
  NORMD_ASSERT_OK(Create("s"));
  NORMD_ASSERT_OK(Step("a", 2, "after it"));
  NORMD_ASSERT_OK(Merge("a", 100, 2));
  NORMD_ASSERT_OK(snapshots_->Restore("s", {}, ""));
  const auto retry = [&] {
    EXPECT_EQ(Count("a"), 11);
    NORMD_ASSERT_OK_AND_ASSIGN(const auto first, Step("a", 1, "in the snapshot"));
    EXPECT_TRUE(first.replayed);
    NORMD_ASSERT_OK_AND_ASSIGN(const auto second, Step("a", 2, "after it"));
    EXPECT_TRUE(second.replayed);
    NORMD_ASSERT_OK_AND_ASSIGN(const auto third, Merge("a", 10, 1));
    EXPECT_TRUE(third.replayed);
    NORMD_ASSERT_OK_AND_ASSIGN(const auto fourth, Merge("a", 100, 2));
    EXPECT_TRUE(fourth.replayed);
    EXPECT_EQ(Count("a"), 11);
  };
  retry();
  Restart();
  retry();

  // Nor when the layer was deleted in between, or another one had taken its name.
  const std::string uid = Get("a")->uid;
  const int64_t version = Get("a")->version;
  NORMD_ASSERT_OK(registry_->Delete("a", "", ""));
  Restart();
  NORMD_ASSERT_OK(snapshots_->Restore("s", {}, ""));
  EXPECT_EQ(Get("a")->uid, uid);
  EXPECT_EQ(Get("a")->version, version + 1);
  retry();
  NORMD_ASSERT_OK(registry_->Delete("a", "", ""));
  Make("a");
  NORMD_ASSERT_OK(Step("a", 5));
  NORMD_ASSERT_OK(snapshots_->Restore("s", {}, ""));
  EXPECT_EQ(Get("a")->uid, uid);
  EXPECT_EQ(Get("a")->version, version + 2);
  retry();
  Restart();
  retry();
}

TEST_P(SnapshotsTest, WhatIsRememberedOfADeletedLayerIsForgottenInTime) {
  Make("a");
  NORMD_ASSERT_OK(Step("a", 1, "r"));
  NORMD_ASSERT_OK(Create("s"));
  NORMD_ASSERT_OK(registry_->Delete("a", "", ""));
  EXPECT_THAT(*store_->ListGone(), ::testing::SizeIs(1));
  clock_.Advance(absl::Hours(25));
  Make("b");
  EXPECT_THAT(*store_->ListGone(), ::testing::SizeIs(0));
  NORMD_ASSERT_OK(snapshots_->Restore("s", {}, ""));
  NORMD_ASSERT_OK_AND_ASSIGN(const auto late, Step("a", 1, "r"));
  EXPECT_FALSE(late.replayed);
}

TEST_P(SnapshotsTest, RestoresUnderOtherNames) {
  Make("m.a");
  Make("m.b");
  NORMD_ASSERT_OK(Merge("m.a", 7, 3));
  NORMD_ASSERT_OK(Create("s"));
  NORMD_ASSERT_OK(Merge("m.a", 1, 4));
  EXPECT_THAT(snapshots_->Restore("s", Renamed("", "m.", "copy.m."), ""), IsOkAndHolds(2));
  EXPECT_EQ(Count("copy.m.a"), 7);
  EXPECT_EQ(Count("m.a"), 8);
  EXPECT_NE(Get("copy.m.a")->uid, Get("m.a")->uid);
  EXPECT_EQ(Get("copy.m.a")->version, 1);
  // Whoever contributes to the copy goes on where the snapshot was.
  NORMD_ASSERT_OK_AND_ASSIGN(const auto known, Merge("copy.m.a", 7, 3));
  EXPECT_TRUE(known.replayed);
  NORMD_ASSERT_OK(Merge("copy.m.a", 5, 4));
  EXPECT_EQ(Count("copy.m.a"), 12);
  // Once more, over it.
  const std::string uid = Get("copy.m.a")->uid;
  EXPECT_THAT(snapshots_->Restore("s", Renamed("m.a", "", "copy.m.a"), ""), IsOkAndHolds(1));
  EXPECT_EQ(Get("copy.m.a")->uid, uid);
  EXPECT_EQ(Get("copy.m.a")->version, 3);
  EXPECT_EQ(Count("copy.m.a"), 7);
  NORMD_ASSERT_OK_AND_ASSIGN(const auto late, Merge("copy.m.a", 5, 4));
  EXPECT_TRUE(late.replayed);
}

TEST_P(SnapshotsTest, LayersThatShareGammaAndBetaStayTogether) {
  Make("a");
  for (const char* name : {"b", "c"}) {
    NORMD_ASSERT_OK(registry_->Fork({.name = "a",
                                     .new_name = name,
                                     .version = 0,
                                     .share_affine = true,
                                     .reset_statistics = false,
                                     .request_id = ""}));
  }
  NORMD_ASSERT_OK(Create("s"));
  layer::StateUpdate learned;
  learned.gamma = {5};
  learned.beta = {6};
  NORMD_ASSERT_OK(registry_->SetState("a", learned, 0, ""));
  EXPECT_EQ(Get("c")->affine->beta[0], 6);
  // Of one layer: the others follow in gamma and beta, and keep their statistics.
  NORMD_ASSERT_OK(Step("c", 3));
  EXPECT_THAT(snapshots_->Restore("s", {.layer = "b", .prefix = "", .new_name = {}}, ""), IsOkAndHolds(1));
  for (const char* name : {"a", "b", "c"}) EXPECT_EQ(Get(name)->affine->beta[0], 0) << name;
  EXPECT_EQ(Count("c"), 1);
  // Under other names they share among themselves.
  EXPECT_THAT(snapshots_->Restore("s", Renamed("", "", "copy."), ""), IsOkAndHolds(3));
  EXPECT_EQ(Get("copy.a")->affine_group, Get("copy.b")->affine_group);
  EXPECT_NE(Get("copy.a")->affine_group, Get("a")->affine_group);
  NORMD_ASSERT_OK(registry_->SetState("copy.a", learned, 0, ""));
  EXPECT_EQ(Get("copy.b")->affine->beta[0], 6);
  EXPECT_EQ(Get("b")->affine->beta[0], 0);
  // Alone, it has its own.
  EXPECT_THAT(snapshots_->Restore("s", Renamed("a", "", "single"), ""), IsOkAndHolds(1));
  EXPECT_EQ(Get("single")->affine_group, "");
  Restart();
  NORMD_ASSERT_OK(registry_->SetState("copy.b", learned, 0, ""));
  EXPECT_EQ(Get("copy.c")->affine->gamma[0], 5);
}

TEST_P(SnapshotsTest, ARestoreIsAllOrNothing) {
  Make("a");
  Make("b");
  NORMD_ASSERT_OK(Create("s"));
  NORMD_ASSERT_OK(Step("a", 1));
  ConfigUpdate freeze;
  freeze.values.frozen = true;
  freeze.fields = {"frozen"};
  NORMD_ASSERT_OK(registry_->Update("b", freeze, "", ""));
  EXPECT_THAT(snapshots_->Restore("s", {}, ""),
              StatusIs(StatusCode::kFailedPrecondition, "snapshot 's': layer 'b': is frozen"));
  EXPECT_EQ(Count("a"), 1);
  EXPECT_EQ(Get("a")->version, 2);
  EXPECT_THAT(snapshots_->Restore("s", Renamed("", "", "bad..name."), ""), StatusIs(StatusCode::kInvalidArgument));
  EXPECT_EQ(registry_->size(), 2);
}

TEST_P(SnapshotsTest, RetriesAndRefusals) {
  Make("a");
  NORMD_ASSERT_OK_AND_ASSIGN(const auto info, Create("s", "a", "", "c"));
  EXPECT_THAT(Create("s", "a", "", "c"), IsOkAndHolds(info));
  EXPECT_THAT(Create("s"), StatusIs(StatusCode::kAlreadyExists, "snapshot 's': exists already"));
  EXPECT_THAT(Create("s2", "a", "", "c"), StatusIs(StatusCode::kInvalidArgument, "request_id 'c' was used before"));
  EXPECT_THAT(Create("t", "nobody"), StatusIs(StatusCode::kNotFound, "layer 'nobody': does not exist"));
  EXPECT_THAT(Create("t", "", "x."),
              StatusIs(StatusCode::kNotFound, "does not hold a layer whose name starts with 'x.'"));
  EXPECT_THAT(Create("t", "a", "a"), StatusIs(StatusCode::kInvalidArgument, "want one of them"));
  EXPECT_THAT(Create("", "a"), StatusIs(StatusCode::kInvalidArgument, "snapshot"));
  EXPECT_THAT(snapshots_->Restore("none", {}, ""), StatusIs(StatusCode::kNotFound, "snapshot 'none': does not exist"));
  EXPECT_THAT(snapshots_->Restore("s", {.layer = "b", .prefix = "", .new_name = {}}, ""),
              StatusIs(StatusCode::kNotFound, "snapshot 's': does not hold layer 'b'"));
  NORMD_ASSERT_OK(Step("a", 1));
  EXPECT_THAT(snapshots_->Restore("s", {}, "restore"), IsOkAndHolds(1));
  NORMD_ASSERT_OK(Step("a", 1));
  EXPECT_THAT(snapshots_->Delete("s", "d"), IsOk());
  EXPECT_THAT(snapshots_->Delete("s", "d"), IsOk());
  EXPECT_THAT(snapshots_->Delete("s", ""), StatusIs(StatusCode::kNotFound));
  // A retry does nothing, though there is nothing left to restore.
  EXPECT_THAT(snapshots_->Restore("s", {}, "restore"), IsOkAndHolds(1));
  EXPECT_EQ(Count("a"), 1);
  Restart();
  EXPECT_THAT(snapshots_->Restore("s", {}, "restore"), IsOkAndHolds(1));
  EXPECT_EQ(Count("a"), 1);
}

// Layers that are changed one after the other are never seen the other way round.
TEST_P(SnapshotsTest, IsOfOneMoment) {
  Make("a");
  Make("b");
  std::atomic<bool> stop = false;
  std::thread trainer([&] {
    while (!stop) {
      EXPECT_THAT(Step("a", 1), IsOk());
      EXPECT_THAT(Step("b", 1), IsOk());
    }
  });
  for (int i = 0; i < 50; ++i) EXPECT_THAT(Create(absl::StrCat("s", i)), IsOk());
  stop = true;
  trainer.join();
  for (int i = 0; i < 50; ++i) {
    EXPECT_THAT(snapshots_->Restore(absl::StrCat("s", i), {}, ""), IsOk());
    EXPECT_LE(Count("b"), Count("a")) << i;
    EXPECT_LE(Count("a"), Count("b") + 1) << i;
  }
}

TEST_P(SnapshotsTest, ABackupBringsBackLayersAndWhatTheyRemember) {
  const std::string path = absl::StrCat(folder_, "/backup.db");
  const auto alive = [] { return absl::OkStatus(); };
  Make("a");
  NORMD_ASSERT_OK(Step("a", 1, "r"));
  NORMD_ASSERT_OK(Merge("a", 10, 1));
  if (GetParam() == "memory") {
    EXPECT_THAT(snapshots_->Backup(path, alive), StatusIs(StatusCode::kFailedPrecondition, "in memory only"));
    return;
  }
  NORMD_ASSERT_OK(snapshots_->Backup(path, alive));
  EXPECT_THAT(snapshots_->Backup(absl::StrCat(folder_, "/other.db"), [] { return absl::CancelledError("gone"); }),
              StatusIs(StatusCode::kCancelled));
  // Another server, which knows nothing.
  snapshots_.reset();
  registry_.reset();
  store_.reset();
  std::filesystem::remove(absl::StrCat(folder_, "/normd.db"));
  Restart();
  EXPECT_EQ(registry_->size(), 0);
  EXPECT_THAT(snapshots_->RestoreBackup(path, {}), IsOkAndHolds(1));
  for (int restarted = 0; restarted < 2; ++restarted) {
    EXPECT_EQ(Count("a"), 11);
    NORMD_ASSERT_OK_AND_ASSIGN(const auto step, Step("a", 1, "r"));
    EXPECT_TRUE(step.replayed);
    NORMD_ASSERT_OK_AND_ASSIGN(const auto merge, Merge("a", 10, 1));
    EXPECT_TRUE(merge.replayed);
    Restart();
  }
  NORMD_ASSERT_OK(Step("a", 5, "s"));
  EXPECT_THAT(snapshots_->RestoreBackup(path, {}), IsOkAndHolds(1));
  EXPECT_EQ(Count("a"), 11);
  EXPECT_THAT(snapshots_->RestoreBackup(path, {.layer = "b", .prefix = "", .new_name = {}}),
              StatusIs(StatusCode::kNotFound, "backup: does not hold layer 'b'"));
  // A copy beside it is a layer of its own, which remembers no requests.
  EXPECT_THAT(snapshots_->RestoreBackup(path, {.layer = "a", .prefix = "", .new_name = "b"}), IsOkAndHolds(1));
  EXPECT_EQ(Count("b"), 11);
  NORMD_ASSERT_OK_AND_ASSIGN(const auto step, Step("b", 1, "r"));
  EXPECT_FALSE(step.replayed);
}

// A file of yesterday was started with, and then a backup of today restored into it.
TEST_P(SnapshotsTest, ABackupMayKnowMoreThanTheServer) {
  if (GetParam() == "memory") return;
  const auto alive = [] { return absl::OkStatus(); };
  Make("a");
  NORMD_ASSERT_OK(Step("a", 1, "yesterday"));
  NORMD_ASSERT_OK(Merge("a", 10, 1));
  NORMD_ASSERT_OK(snapshots_->Backup(absl::StrCat(folder_, "/yesterday.db"), alive));
  NORMD_ASSERT_OK(Step("a", 2, "today"));
  NORMD_ASSERT_OK(Merge("a", 100, 2));
  NORMD_ASSERT_OK(snapshots_->Backup(absl::StrCat(folder_, "/today.db"), alive));
  const auto retry = [&] {
    EXPECT_EQ(Count("a"), 112);
    for (const char* request : {"yesterday", "today"}) {
      NORMD_ASSERT_OK_AND_ASSIGN(const auto step, Step("a", request[0] == 'y' ? 1 : 2, request));
      EXPECT_TRUE(step.replayed) << request;
    }
    NORMD_ASSERT_OK_AND_ASSIGN(const auto merge, Merge("a", 100, 2));
    EXPECT_TRUE(merge.replayed);
    EXPECT_EQ(Count("a"), 112);
  };
  options_.location = absl::StrCat("sqlite:", folder_, "/yesterday.db");
  Restart();
  EXPECT_EQ(Count("a"), 11);
  NORMD_ASSERT_OK(Step("a", 7, "another"));
  EXPECT_THAT(snapshots_->RestoreBackup(absl::StrCat(folder_, "/today.db"), {}), IsOkAndHolds(1));
  retry();
  NORMD_ASSERT_OK_AND_ASSIGN(const auto own, Step("a", 7, "another"));
  EXPECT_TRUE(own.replayed);
  Restart();
  retry();
  // The same with a layer that was deleted.
  NORMD_ASSERT_OK(registry_->Delete("a", "", ""));
  EXPECT_THAT(snapshots_->RestoreBackup(absl::StrCat(folder_, "/today.db"), {}), IsOkAndHolds(1));
  retry();
  Restart();
  retry();
}

INSTANTIATE_TEST_SUITE_P(Stores, SnapshotsTest, ::testing::Values("memory", "sqlite"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace normd::registry
