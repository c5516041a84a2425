#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/store/open_store.h"
#include "tests/server/store/redis_server.h"
#include "tests/server/store/store_data.h"
#include "tests/status_matchers.h"

// What every store must do. One that keeps its data in a file is opened anew before each look into it.
namespace normd::store {
namespace {

using absl::StatusCode;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using tests::ExpectSame;
using tests::IsOk;
using tests::NextStep;
using tests::Put;
using tests::Request;
using tests::SomeLayer;
using tests::StatusIs;

struct Contents {
  std::vector<StateStore::SnapshotPtr> layers;
  std::vector<RequestRecord> requests;
};

// Started for the first test that asks for it, and used by the others with other keys.
const tests::RedisSet& Redis(const std::string& kind) {
  static std::map<std::string, std::unique_ptr<tests::RedisSet>> sets;
  std::unique_ptr<tests::RedisSet>& set = sets[kind];
  if (set != nullptr) return *set;
  if (kind == "redis") set = tests::RedisSet::Standalone();
  if (kind == "redis tls") set = tests::RedisSet::Tls();
  if (kind == "redis sentinel") set = tests::RedisSet::Sentinel();
  if (kind == "redis cluster") set = tests::RedisSet::Cluster();
  return *set;
}

class ConformanceTest : public ::testing::TestWithParam<std::string> {
 protected:
  ConformanceTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "normd_store_XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    options_.location = GetParam() == "memory" ? "memory" : absl::StrCat("sqlite:", folder_, "/sub/normd.db");
    if (IsRedis()) {
      options_.location = Redis(GetParam())
                              .Location(::testing::UnitTest::GetInstance()->current_test_info()->test_case_name() +
                                        std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    }
    if (GetParam() == "sqlite power") options_.durability = Durability::kPower;
    if (GetParam() == "sqlite periodic") options_.durability = Durability::kPeriodic;
    Open();
  }
  ~ConformanceTest() override {
    store_.reset();
    std::filesystem::remove_all(folder_);
  }

  static bool IsRedis() { return absl::StartsWith(GetParam(), "redis"); }

  void Open() {
    store_.reset();
    auto opened = OpenStore(options_);
    ASSERT_THAT(opened, IsOk());
    store_ = *std::move(opened);
  }

  Contents Load() {
    if (GetParam() != "memory") Open();
    Contents contents;
    EXPECT_THAT(store_->Load(
                    [&](StateStore::SnapshotPtr layer) {
                      contents.layers.push_back(std::move(layer));
                      return absl::OkStatus();
                    },
                    [&](RequestRecord request) {
                      contents.requests.push_back(std::move(request));
                      return absl::OkStatus();
                    }),
                IsOk());
    return contents;
  }

  std::string folder_;
  StoreOptions options_;
  std::unique_ptr<StateStore> store_;
};

TEST_P(ConformanceTest, StartsEmpty) {
  const Contents contents = Load();
  EXPECT_THAT(contents.layers, IsEmpty());
  EXPECT_THAT(contents.requests, IsEmpty());
}

TEST_P(ConformanceTest, KeepsEveryFieldOfALayer) {
  const auto layer = SomeLayer("a", 0.1);
  const std::vector<Update> updates = {Put(layer), Put(SomeLayer("b", -2e300, 1))};
  ASSERT_THAT(store_->Write(updates), IsOk());
  const Contents contents = Load();
  ASSERT_EQ(contents.layers.size(), 2);
  ExpectSame(*contents.layers[0], *layer);
  ExpectSame(*contents.layers[1], *updates[1].put);
}

TEST_P(ConformanceTest, KeepsALayerWithoutOptionalParts) {
  auto bare = std::make_shared<layer::LayerSnapshot>(*SomeLayer("bare", 1));
  layer::LayerConfig config;
  config.num_channels = 2;
  config.affine = false;
  config.track_running_stats = false;
  bare->config = std::make_shared<layer::LayerConfig>(config);
  bare->statistics = std::make_shared<layer::Statistics>(layer::Statistics::Initial(config));
  bare->affine = std::make_shared<layer::Affine>(layer::Affine::Initial(config));
  bare->optimizer = std::make_shared<layer::OptimizerState>();
  bare->contributors = std::make_shared<layer::Contributors>();
  bare->content_hash = layer::ContentHash(config, *bare->statistics, *bare->affine);
  ASSERT_THAT(store_->Write({Put(bare)}), IsOk());
  const Contents contents = Load();
  ASSERT_EQ(contents.layers.size(), 1);
  ExpectSame(*contents.layers[0], *bare);
}

TEST_P(ConformanceTest, ReplacesAVersion) {
  const auto first = SomeLayer("a", 1);
  ASSERT_THAT(store_->Write({Put(first)}), IsOk());
  // Once each part alone, so that the others are taken over from the version before.
  auto second = std::make_shared<layer::LayerSnapshot>(*first);
  second->statistics = SomeLayer("a", 2)->statistics;
  second->content_hash = layer::ContentHash(*second->config, *second->statistics, *second->affine);
  second->version = 43;
  ASSERT_THAT(store_->Write({Put(second, first)}), IsOk());
  auto third = std::make_shared<layer::LayerSnapshot>(*second);
  third->affine = SomeLayer("a", 3)->affine;
  third->optimizer = SomeLayer("a", 3)->optimizer;
  third->content_hash = layer::ContentHash(*third->config, *third->statistics, *third->affine);
  third->contributors =
      std::make_shared<layer::Contributors>(second->contributors->With("actor", 7).value().With("new", 1).value());
  third->version = 44;
  third->config_version = 5;
  third->update_time += absl::Seconds(1);
  ASSERT_THAT(store_->Write({Put(third, second)}), IsOk());
  Contents contents = Load();
  ASSERT_EQ(contents.layers.size(), 1);
  ExpectSame(*contents.layers[0], *third);
  // Without a word on what it replaces, too.
  const auto last = SomeLayer("a", 4);
  ASSERT_THAT(store_->Write({Put(last)}), IsOk());
  contents = Load();
  ASSERT_EQ(contents.layers.size(), 1);
  ExpectSame(*contents.layers[0], *last);
}

TEST_P(ConformanceTest, KeepsRequestsInOrder) {
  ASSERT_THAT(store_->Write({Put(SomeLayer("a", 1)), Put(SomeLayer("b", 1)), Request("uid-of-b", 1, "first"),
                             Request("uid-of-b", 2, std::string("\0\xff'", 3)), Request("", 1, "create")}),
              IsOk());
  const Contents contents = Load();
  ASSERT_EQ(contents.requests.size(), 3);
  std::vector<RequestRecord> of_b;
  for (const RequestRecord& record : contents.requests) {
    if (!record.layer_uid.empty()) of_b.push_back(record);
  }
  EXPECT_THAT(of_b, ElementsAre(*Request("uid-of-b", 1, "first").request,
                                *Request("uid-of-b", 2, std::string("\0\xff'", 3)).request));
  EXPECT_THAT(contents.requests, ::testing::Contains(*Request("", 1, "create").request));
}

TEST_P(ConformanceTest, ForgetsRequestsOfOneLayerUpToASequence) {
  std::vector<Update> updates = {Put(SomeLayer("a", 1)), Request("uid-of-a", 1, "kept")};
  for (int i = 1; i <= 5; ++i) updates.push_back(Request("", i, absl::StrCat("r", i)));
  ASSERT_THAT(store_->Write(updates), IsOk());
  Update forget = Request("", 6, "r6");
  forget.forget_through = 4;
  ASSERT_THAT(store_->Write({forget}), IsOk());
  std::vector<std::string> left;
  for (const RequestRecord& record : Load().requests) left.push_back(record.request_id);
  EXPECT_THAT(left, ::testing::UnorderedElementsAre("kept", "r5", "r6"));
}

TEST_P(ConformanceTest, RemembersALayerThatIsGoneUntilItIsForgotten) {
  ASSERT_THAT(store_->Write({Put(SomeLayer("a", 1)), Put(SomeLayer("b", 1)), Request("uid-of-a", 1, "r"),
                             Request("uid-of-b", 1, "s")}),
              IsOk());
  Update remove = Request("", 1, "delete");
  const auto contributors = SomeLayer("a", 7)->contributors;
  remove.remove = GoneLayer{
      .uid = "uid-of-a", .version = 42, .contributors = contributors, .time = absl::FromUnixNanos(1'234'567'891)};
  ASSERT_THAT(store_->Write({remove}), IsOk());
  Contents contents = Load();
  ASSERT_EQ(contents.layers.size(), 1);
  EXPECT_EQ(contents.layers[0]->name, "b");
  EXPECT_EQ(contents.requests.size(), 3);
  auto gone = store_->ListGone();
  ASSERT_THAT(gone, IsOk());
  ASSERT_EQ(gone->size(), 1);
  EXPECT_EQ(gone->front().uid, "uid-of-a");
  EXPECT_EQ(gone->front().version, 42);
  EXPECT_EQ(*gone->front().contributors, *contributors);
  EXPECT_EQ(gone->front().time, remove.remove->time);
  // The name is free again.
  auto again = std::make_shared<layer::LayerSnapshot>(*SomeLayer("a", 9));
  again->uid = "another";
  ASSERT_THAT(store_->Write({Put(again)}), IsOk());
  EXPECT_EQ(Load().layers.size(), 2);

  // It comes back, with its requests.
  Update leave;
  leave.remove = GoneLayer{.uid = "another", .version = 1, .contributors = contributors, .time = {}};
  ASSERT_THAT(store_->Write({leave, Put(SomeLayer("a", 3))}), IsOk());
  ASSERT_THAT(store_->Write({Request("uid-of-a", 2, "r2")}), IsOk());
  contents = Load();
  ASSERT_EQ(contents.layers.size(), 2);
  ExpectSame(*contents.layers[0], *SomeLayer("a", 3));
  EXPECT_EQ(contents.requests.size(), 4);
  ASSERT_THAT(store_->ListGone(), IsOk());
  EXPECT_EQ(store_->ListGone()->size(), 1);

  // Gone once more, and forgotten.
  remove.request->sequence = 2;
  ASSERT_THAT(store_->Write({remove}), IsOk());
  Update forget;
  forget.forget = "uid-of-a";
  ASSERT_THAT(store_->Write({forget}), IsOk());
  contents = Load();
  EXPECT_EQ(contents.layers.size(), 1);
  for (const RequestRecord& request : contents.requests) EXPECT_NE(request.layer_uid, "uid-of-a");
  EXPECT_EQ(store_->ListGone()->size(), 1);
}

TEST_P(ConformanceTest, KeepsNamedSnapshotsApartFromTheLayers) {
  auto first = std::make_shared<NamedSnapshot>();
  first->info = {.name = "before",
                 .layer = "",
                 .prefix = "m.",
                 .num_layers = 2,
                 .create_time = absl::FromUnixNanos(1'700'000'000'123'456'789)};
  first->layers = {SomeLayer("m.a", 1), SomeLayer("m.b", 2)};
  auto second = std::make_shared<NamedSnapshot>();
  second->info = {.name = "after", .layer = "m.a", .prefix = "", .num_layers = 1, .create_time = {}};
  second->layers = {SomeLayer("m.a", 5)};
  Update puts[2];
  puts[0].put_snapshot = first;
  puts[1].put_snapshot = second;
  ASSERT_THAT(store_->Write({Put(SomeLayer("m.a", 9)), puts[0], puts[1]}), IsOk());
  EXPECT_EQ(Load().layers.size(), 1);
  auto infos = store_->ListSnapshots();
  ASSERT_THAT(infos, IsOk());
  EXPECT_THAT(*infos, ElementsAre(second->info, first->info));

  std::vector<StateStore::SnapshotPtr> layers;
  const auto take = [&](StateStore::SnapshotPtr layer) {
    layers.push_back(std::move(layer));
    return absl::OkStatus();
  };
  ASSERT_THAT(store_->ReadSnapshot("before", take), IsOk());
  ASSERT_EQ(layers.size(), 2);
  ExpectSame(*layers[0], *first->layers[0]);
  ExpectSame(*layers[1], *first->layers[1]);
  EXPECT_THAT(store_->ReadSnapshot("never", take), StatusIs(StatusCode::kNotFound, "snapshot 'never' does not exist"));
  EXPECT_THAT(store_->ReadSnapshot("before", [](const auto&) { return absl::CancelledError("enough"); }),
              StatusIs(StatusCode::kCancelled, "enough"));

  Update remove;
  remove.remove_snapshot = "before";
  ASSERT_THAT(store_->Write({remove}), IsOk());
  Load();
  EXPECT_THAT(*store_->ListSnapshots(), ElementsAre(second->info));
  EXPECT_THAT(store_->ReadSnapshot("before", take), StatusIs(StatusCode::kNotFound));
}

TEST_P(ConformanceTest, ACopyIsAStoreOfItsOwn) {
  const std::string path = absl::StrCat(folder_, "/copy.db");
  if (GetParam() == "memory") {
    EXPECT_THAT(store_->StartBackup(path), StatusIs(StatusCode::kFailedPrecondition, "in memory only"));
    return;
  }
  if (IsRedis()) {
    EXPECT_THAT(store_->StartBackup(path), StatusIs(StatusCode::kFailedPrecondition, "redis-cli --rdb"));
    return;
  }
  std::vector<Update> updates;
  for (int i = 0; i < 300; ++i) updates.push_back(Put(SomeLayer(absl::StrCat("layer", 1000 + i), i, 1000)));
  updates.push_back(Request("uid-of-layer1000", 1, "r"));
  ASSERT_THAT(store_->Write(updates), IsOk());
  const StateStore::SnapshotPtr second = updates[1].put;
  // Small changes may go another way into the store than large ones.
  const auto trained = NextStep(*second, 500);
  ASSERT_THAT(store_->Write({Put(trained, second), Request(second->uid, 1, "t")}), IsOk());
  const auto trained_meanwhile = NextStep(*trained, 501);
  int steps = 0;
  {
    auto copy = store_->StartBackup(path);
    ASSERT_THAT(copy, IsOk());
    for (bool complete = false; !complete; ++steps) {
      auto step = (*copy)->Step();
      ASSERT_THAT(step, IsOk());
      complete = *step;
      // What is written meanwhile is in the copy as well.
      if (steps == 0) {
        EXPECT_THAT(store_->Write({Put(SomeLayer("layer1000", 77, 1000)), Request("uid-of-layer1000", 2, "s")}),
                    IsOk());
        EXPECT_THAT(store_->Write({Put(trained_meanwhile, trained)}), IsOk());
      }
    }
  }
  EXPECT_GT(steps, 2);
  EXPECT_THAT(store_->StartBackup(path), StatusIs(StatusCode::kAlreadyExists, "exists already"));
  auto opened = OpenBackup(path);
  ASSERT_THAT(opened, IsOk());
  store_ = *std::move(opened);
  std::vector<StateStore::SnapshotPtr> layers;
  std::vector<std::string> requests;
  ASSERT_THAT(store_->Load(
                  [&](StateStore::SnapshotPtr layer) {
                    layers.push_back(std::move(layer));
                    return absl::OkStatus();
                  },
                  [&](const RequestRecord& request) {
                    requests.push_back(request.request_id);
                    return absl::OkStatus();
                  }),
              IsOk());
  ASSERT_EQ(layers.size(), 300);
  ExpectSame(*layers[0], *SomeLayer("layer1000", 77, 1000));
  // At least what was stored before the copy was begun.
  ExpectSame(*layers[1], layers[1]->version == trained->version ? *trained : *trained_meanwhile);
  ExpectSame(*layers[299], *SomeLayer("layer1299", 299, 1000));
  EXPECT_THAT(requests, ElementsAre("r", "s", "t"));
}

TEST_P(ConformanceTest, EndsALoadWithTheFirstError) {
  ASSERT_THAT(store_->Write({Put(SomeLayer("a", 1)), Put(SomeLayer("b", 1))}), IsOk());
  int calls = 0;
  EXPECT_THAT(store_->Load(
                  [&](const StateStore::SnapshotPtr&) {
                    ++calls;
                    return absl::CancelledError("enough");
                  },
                  [](const RequestRecord&) { return absl::OkStatus(); }),
              StatusIs(StatusCode::kCancelled, "enough"));
  EXPECT_EQ(calls, 1);
}

INSTANTIATE_TEST_SUITE_P(Stores, ConformanceTest,
                         ::testing::Values("memory", "sqlite process", "sqlite power", "sqlite periodic", "redis",
                                           "redis tls", "redis sentinel", "redis cluster"),
                         [](const auto& store) {
                           std::string name = store.param;
                           for (char& c : name) c = c == ' ' ? '_' : c;
                           return name;
                         });

}  // namespace
}  // namespace normd::store
