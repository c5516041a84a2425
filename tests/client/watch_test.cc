#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "normd/client.h"
#include "tests/integration/test_server.h"
#include "tests/status_matchers.h"

// Watches, forks, snapshots and backups of the SDK, against the real server.
namespace normd {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::IsOkAndHolds;
using tests::StatusIs;

// A server with its state in a file, which can be stopped and started again.
class WatchTest : public ::testing::Test {
 protected:
  WatchTest() { Start(); }

  void Start() {
    app::ServerOptions options = tests::TestOptions();
    options.unix_socket = folder_.Path("s");
    options.store.location = absl::StrCat("sqlite:", folder_.Path("normd.db"));
    server_ = std::make_unique<tests::TestServer>(options);
  }
  void Stop() { server_.reset(); }

  void Create(const std::string& name) {
    LayerSpec spec;
    spec.name = name;
    spec.config.num_channels = 1;
    EXPECT_THAT(client_->CreateLayer(spec), IsOk());
  }
  int64_t Step(const std::string& name, double a, double b) {
    const std::vector<double> x = {a, b};
    const auto step = client_->TrainStep(name, TensorView(absl::MakeConstSpan(x), {2, 1}));
    EXPECT_THAT(step, IsOk());
    return step.ok() ? step->version : 0;
  }
  static LayerChange Next(LayerWatch* watch) {
    auto change = watch->Next();
    EXPECT_THAT(change, IsOk());
    return change.ok() ? *std::move(change) : LayerChange{};
  }

  tests::TempDir folder_;
  std::unique_ptr<tests::TestServer> server_;
  std::unique_ptr<Client> client_ = Client::Connect(absl::StrCat("unix:", folder_.Path("s")));
};

TEST_F(WatchTest, TellsEachNewVersionWithAllThatItTakesToNormalize) {
  Create("a");
  WatchOptions options;
  options.names = {"a"};
  const auto watch = client_->Watch(options);
  EXPECT_EQ(Next(watch.get()).layer.version, 1);
  EXPECT_EQ(Step("a", 1, 3), 2);
  const LayerChange change = Next(watch.get());
  EXPECT_FALSE(change.deleted);
  EXPECT_EQ(change.layer.version, 2);
  ASSERT_TRUE(change.layer.state.has_value());
  // Preset reference: 0.9 of the old and 0.1 of the new.
  EXPECT_DOUBLE_EQ(change.layer.state->running_mean[0], 0.2);
  EXPECT_DOUBLE_EQ(change.layer.state->inv_std[0], 1 / std::sqrt(0.9 + 0.1 + 1e-5));
  EXPECT_EQ(change.layer.state->gamma[0], 1);
  EXPECT_THAT(client_->DeleteLayer("a"), IsOk());
  const LayerChange gone = Next(watch.get());
  EXPECT_TRUE(gone.deleted);
  EXPECT_EQ(gone.layer.name, "a");
  EXPECT_EQ(gone.layer.version, 2);
  Create("a");
  const LayerChange again = Next(watch.get());
  EXPECT_FALSE(again.deleted);
  EXPECT_NE(again.layer.uid, gone.layer.uid);
}

TEST_F(WatchTest, GoesOnWithWhatItHasWhenTheServerComesBack) {
  Create("m.a");
  Create("m.b");
  Create("other");
  WatchOptions options;
  options.prefix = "m.";
  options.with_state = false;
  const auto watch = client_->Watch(options);
  EXPECT_EQ(Next(watch.get()).layer.name, "m.a");
  EXPECT_EQ(Next(watch.get()).layer.name, "m.b");
  Stop();
  Start();
  // Only what is new, whether the watch is back already or not.
  Step("other", 1, 3);
  EXPECT_EQ(Step("m.b", 1, 3), 2);
  const LayerChange change = Next(watch.get());
  EXPECT_EQ(change.layer.name, "m.b");
  EXPECT_EQ(change.layer.version, 2);
  EXPECT_FALSE(change.layer.state.has_value());
  Create("m.c");
  EXPECT_EQ(Next(watch.get()).layer.name, "m.c");
}

TEST_F(WatchTest, EndsWhenItIsCancelledOrRefused) {
  Create("a");
  WatchOptions options;
  options.names = {"a"};
  const auto watch = client_->Watch(options);
  Next(watch.get());
  std::thread canceller([&] { watch->Cancel(); });
  EXPECT_THAT(watch->Next(), StatusIs(StatusCode::kCancelled));
  EXPECT_THAT(watch->Next(), StatusIs(StatusCode::kCancelled));
  canceller.join();

  options.names = {"a", "b"};
  const auto misspelt = client_->Watch(options);
  EXPECT_THAT(misspelt->Next(), StatusIs(StatusCode::kNotFound, "layer 'b': does not exist"));
  EXPECT_THAT(misspelt->Next(), StatusIs(StatusCode::kNotFound));
  options.names = {};
  options.min_interval = absl::Hours(2);
  EXPECT_THAT(client_->Watch(options)->Next(), StatusIs(StatusCode::kInvalidArgument, "min_interval is 7200 s"));
}

// Whoever is slow, or asks for pauses, ends at the newest version with few messages.
TEST_F(WatchTest, ManyWatchersOfALayerInTrainingEndAtItsNewestVersion) {
  Create("a");
  constexpr int64_t kSteps = 500;
  constexpr int kWatchers = 6;
  std::vector<std::thread> threads;
  for (int i = 0; i < kWatchers; ++i) {
    threads.emplace_back([&, i] {
      WatchOptions options;
      options.names = {"a"};
      if (i % 2 == 1) options.min_interval = absl::Milliseconds(50);
      const auto watch = client_->Watch(options);
      int64_t version = 0;
      int64_t messages = 0;
      while (version < kSteps + 1) {
        const auto change = watch->Next();
        ASSERT_THAT(change, IsOk());
        EXPECT_GT(change->layer.version, version);
        version = change->layer.version;
        ++messages;
      }
      if (i % 2 == 1) {
        EXPECT_LT(messages, kSteps / 2);
      }
    });
  }
  for (int64_t i = 0; i < kSteps; ++i) Step("a", 1, 3);
  for (std::thread& thread : threads) thread.join();
}

TEST_F(WatchTest, SnapshotsForksAndBackups) {
  Create("a");
  Step("a", 1, 3);
  const auto snapshot = client_->CreateSnapshot("s", {.layer = "a", .prefix = ""});
  ASSERT_THAT(snapshot, IsOk());
  EXPECT_EQ(snapshot->num_layers, 1);
  ForkOptions fork;
  fork.version = 1;
  const auto forked = client_->ForkLayer("a", "b", fork);
  ASSERT_THAT(forked, IsOk());
  EXPECT_EQ(forked->version, 1);
  std::string file;
  EXPECT_THAT(client_->Backup([&](absl::string_view piece, int64_t total) {
    file.append(piece.data(), piece.size());
    EXPECT_LE(static_cast<int64_t>(file.size()), total);
    return absl::OkStatus();
  }),
              IsOk());
  const std::string hash = client_->GetLayer("a")->content_hash;
  Step("a", 5, 9);
  EXPECT_THAT(client_->RestoreSnapshot("s"), IsOkAndHolds(1));
  EXPECT_EQ(client_->GetLayer("a")->content_hash, hash);
  EXPECT_THAT(client_->DeleteLayer("a"), IsOk());
  EXPECT_THAT(client_->DeleteSnapshot("s"), IsOk());
  EXPECT_TRUE(client_->ListSnapshots()->empty());

  const auto restore = [&](const std::string& bytes) {
    std::size_t position = 0;
    return client_->RestoreBackup([&](absl::Span<char> piece) -> absl::StatusOr<std::size_t> {
      const std::size_t size = bytes.copy(piece.data(), piece.size(), position);
      position += size;
      return size;
    });
  };
  EXPECT_THAT(restore("this is no backup at all"), StatusIs(StatusCode::kDataLoss, "backup: "));
  EXPECT_THAT(restore(""), StatusIs(StatusCode::kInvalidArgument, "the backup is empty"));
  EXPECT_THAT(client_->GetLayer("a"), StatusIs(StatusCode::kNotFound));
  EXPECT_THAT(restore(file), IsOkAndHolds(2));
  EXPECT_EQ(client_->GetLayer("a")->content_hash, hash);
  EXPECT_EQ(client_->GetLayer("a")->version, 5);
}

}  // namespace
}  // namespace normd
