#include "server/shm/region_registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/server/shm/shm_object.h"
#include "tests/status_matchers.h"

namespace normd::shm {
namespace {

using absl::StatusCode;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using tests::IsOk;
using tests::ShmObject;
using tests::StatusIs;

using Session = RegionRegistry::Session;

class RegionRegistryTest : public ::testing::Test {
 protected:
  void Limit(const RegionRegistryOptions& options) { registry_ = std::make_unique<RegionRegistry>(options); }
  Session Open() {
    auto session = registry_->OpenSession();
    EXPECT_THAT(session, IsOk());
    return *std::move(session);
  }
  absl::StatusOr<std::string> Register(const Session& session, ShmObject& object, int64_t bytes) {
    object.Write(0, session.key.value());
    return registry_->Register(session.id, object.name(), bytes);
  }

  std::unique_ptr<RegionRegistry> registry_ = std::make_unique<RegionRegistry>(RegionRegistryOptions());
};

TEST_F(RegionRegistryTest, RegistersUsesAndUnregisters) {
  ShmObject object(1000);
  const Session session = Open();
  NORMD_ASSERT_OK_AND_ASSIGN(const std::string id, Register(session, object, 1000));
  EXPECT_EQ(registry_->mapped_bytes(), 1000);
  EXPECT_EQ(registry_->num_regions(), 1);
  {
    NORMD_ASSERT_OK_AND_ASSIGN(const RegionUse use, registry_->Use(id, 64, 8, 8));
    EXPECT_EQ(use.size(), 8);
    use.data()[7] = 'x';
    EXPECT_EQ(object.Read(71, 1), "x");
    EXPECT_THAT(use.CheckNotLost(), IsOk());
  }
  EXPECT_THAT(registry_->Use(id, 64, 937, 8), StatusIs(StatusCode::kInvalidArgument, "leave the region"));
  EXPECT_THAT(registry_->Use(id, 65, 8, 8), StatusIs(StatusCode::kInvalidArgument, "no multiple"));
  EXPECT_THAT(registry_->Unregister(session.id, id), IsOk());
  EXPECT_THAT(registry_->Unregister(session.id, id), StatusIs(StatusCode::kNotFound, "region"));
  EXPECT_THAT(registry_->Use(id, 64, 8, 8), StatusIs(StatusCode::kNotFound, "region"));
  EXPECT_EQ(object.NumMappings(), 0);
  EXPECT_EQ(registry_->mapped_bytes(), 0);
  EXPECT_EQ(registry_->num_regions(), 0);
}

TEST_F(RegionRegistryTest, ASessionSeesOnlyItsOwn) {
  ShmObject object(1000);
  const Session a = Open();
  const Session b = Open();
  EXPECT_NE(a.id, b.id);
  EXPECT_NE(a.key, b.key);
  EXPECT_NE(a.id, a.key.value());
  NORMD_ASSERT_OK_AND_ASSIGN(const std::string id, Register(a, object, 1000));
  EXPECT_THAT(registry_->Unregister(b.id, id), StatusIs(StatusCode::kNotFound, "region"));
  NORMD_ASSERT_OK_AND_ASSIGN(const auto infos, registry_->List(b.id));
  EXPECT_THAT(infos, IsEmpty());
  // Who can only read the object, and so copy a's key, does not get it.
  EXPECT_THAT(registry_->Register(b.id, object.name(), 1000), StatusIs(StatusCode::kPermissionDenied, "key"));
  EXPECT_THAT(registry_->Register(a.key.value(), object.name(), 1000), StatusIs(StatusCode::kNotFound, "session"));
}

TEST_F(RegionRegistryTest, NoSuchSession) {
  ShmObject object(1000);
  for (const std::string& session : {std::string(), std::string(32, '0'), std::string(100, 'x')}) {
    EXPECT_THAT(registry_->Register(session, object.name(), 1000), StatusIs(StatusCode::kNotFound, "session"));
    EXPECT_THAT(registry_->Unregister(session, "r"), StatusIs(StatusCode::kNotFound, "session"));
    EXPECT_THAT(registry_->List(session), StatusIs(StatusCode::kNotFound, "session"));
    registry_->EndSession(session);
  }
}

TEST_F(RegionRegistryTest, ListsInOrderAndSaysWhatIsLost) {
  const Session session = Open();
  std::vector<std::unique_ptr<ShmObject>> objects;
  std::vector<std::string> ids;
  for (int i = 0; i < 5; ++i) {
    objects.push_back(std::make_unique<ShmObject>(1000));
    NORMD_ASSERT_OK_AND_ASSIGN(std::string id, Register(session, *objects.back(), 100 + i));
    ids.push_back(std::move(id));
  }
  ASSERT_THAT(registry_->Unregister(session.id, ids[1]), IsOk());
  objects[3]->Truncate(10);
  NORMD_ASSERT_OK_AND_ASSIGN(const auto infos, registry_->List(session.id));
  ASSERT_EQ(infos.size(), 4U);
  const int order[] = {0, 2, 3, 4};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(infos[i].id, ids[static_cast<size_t>(order[i])]);
    EXPECT_EQ(infos[i].name, objects[static_cast<size_t>(order[i])]->name());
    EXPECT_EQ(infos[i].size_bytes, 100 + order[i]);
    EXPECT_EQ(infos[i].lost, order[i] == 3);
  }
}

TEST_F(RegionRegistryTest, AUseKeepsItsRegionAlive) {
  ShmObject object(1000);
  const Session session = Open();
  NORMD_ASSERT_OK_AND_ASSIGN(const std::string id, Register(session, object, 1000));
  std::optional<RegionUse> use;
  {
    NORMD_ASSERT_OK_AND_ASSIGN(const RegionUse first, registry_->Use(id, 100, 8, 4));
    use = first;
  }
  ASSERT_THAT(registry_->Unregister(session.id, id), IsOk());
  EXPECT_THAT(registry_->Use(id, 100, 8, 4), StatusIs(StatusCode::kNotFound));
  EXPECT_EQ(registry_->mapped_bytes(), 1000) << "it counts as long as it is mapped";
  use->data()[0] = 'x';
  EXPECT_EQ(object.Read(100, 1), "x");
  EXPECT_THAT(use->CheckNotLost(), IsOk());
  object.Truncate(0);
  use->data()[0] = 'y';
  EXPECT_THAT(use->CheckNotLost(), StatusIs(StatusCode::kDataLoss, object.name()));
  use.reset();
  EXPECT_EQ(registry_->mapped_bytes(), 0);
}

TEST_F(RegionRegistryTest, AUseOutlivesTheRegistry) {
  ShmObject object(1000);
  const Session session = Open();
  NORMD_ASSERT_OK_AND_ASSIGN(const std::string id, Register(session, object, 1000));
  NORMD_ASSERT_OK_AND_ASSIGN(const RegionUse use, registry_->Use(id, 0, 8, 8));
  registry_.reset();
  EXPECT_EQ(object.NumMappings(), 1);
  use.data()[0] = 'x';
  EXPECT_EQ(object.Read(0, 1), "x");
}

TEST_F(RegionRegistryTest, TheEndOfASessionTakesItsRegions) {
  ShmObject a(1000);
  ShmObject b(1000);
  ShmObject c(1000);
  const Session ends = Open();
  const Session stays = Open();
  NORMD_ASSERT_OK_AND_ASSIGN(const std::string id_a, Register(ends, a, 1000));
  NORMD_ASSERT_OK_AND_ASSIGN(const std::string id_b, Register(ends, b, 1000));
  NORMD_ASSERT_OK_AND_ASSIGN(const std::string id_c, Register(stays, c, 1000));
  registry_->EndSession(ends.id);
  EXPECT_EQ(a.NumMappings() + b.NumMappings(), 0);
  EXPECT_EQ(c.NumMappings(), 1);
  EXPECT_EQ(registry_->mapped_bytes(), 1000);
  EXPECT_THAT(registry_->Use(id_a, 0, 8, 8), StatusIs(StatusCode::kNotFound, "region"));
  EXPECT_THAT(registry_->Use(id_b, 0, 8, 8), StatusIs(StatusCode::kNotFound, "region"));
  EXPECT_THAT(registry_->Use(id_c, 0, 8, 8), IsOk());
  EXPECT_THAT(Register(ends, a, 1000), StatusIs(StatusCode::kNotFound, "session"));
  registry_->EndSession(ends.id);
}

TEST_F(RegionRegistryTest, Limits) {
  Limit({.max_bytes = 1000, .max_regions = 4, .max_regions_per_session = 3, .max_sessions = 2});
  ShmObject object(2000);
  const Session a = Open();
  const Session b = Open();
  EXPECT_THAT(registry_->OpenSession(), StatusIs(StatusCode::kResourceExhausted, "2 shared-memory sessions"));

  NORMD_ASSERT_OK_AND_ASSIGN(const std::string first, Register(a, object, 600));
  EXPECT_THAT(Register(b, object, 401), StatusIs(StatusCode::kResourceExhausted, "600 of 1000 are mapped"));
  EXPECT_THAT(Register(b, object, std::numeric_limits<int64_t>::max()), StatusIs(StatusCode::kResourceExhausted));
  NORMD_ASSERT_OK_AND_ASSIGN(const std::string second, Register(b, object, 400));
  EXPECT_THAT(registry_->Unregister(a.id, first), IsOk());

  for (int i = 0; i < 3; ++i) EXPECT_THAT(Register(a, object, 64), IsOk());
  EXPECT_THAT(Register(b, object, 64), StatusIs(StatusCode::kResourceExhausted, "4 shared-memory regions"));
  EXPECT_THAT(registry_->Unregister(b.id, second), IsOk());
  EXPECT_THAT(Register(a, object, 64), StatusIs(StatusCode::kResourceExhausted, "the session has 3"));
  EXPECT_EQ(registry_->num_regions(), 3);
  EXPECT_EQ(registry_->mapped_bytes(), 3 * 64);

  registry_->EndSession(a.id);
  EXPECT_THAT(registry_->OpenSession(), IsOk());
}

TEST_F(RegionRegistryTest, WhatFailsTakesNothingOfTheLimits) {
  Limit({.max_bytes = 1000});
  ShmObject object(500);
  const Session session = Open();
  EXPECT_THAT(Register(session, object, 1000), StatusIs(StatusCode::kOutOfRange));
  EXPECT_THAT(registry_->Register(session.id, "/normd-test-nothing", 1000), StatusIs(StatusCode::kNotFound));
  EXPECT_THAT(registry_->Register(session.id, "nothing", 1000), StatusIs(StatusCode::kInvalidArgument));
  EXPECT_THAT(registry_->Register(session.id, object.name(), -1), StatusIs(StatusCode::kInvalidArgument));
  EXPECT_EQ(registry_->mapped_bytes(), 0);
  EXPECT_EQ(registry_->num_regions(), 0);
}

TEST_F(RegionRegistryTest, MessagesKeepSecrets) {
  ShmObject object(1000);
  const Session a = Open();
  const Session b = Open();
  NORMD_ASSERT_OK_AND_ASSIGN(const std::string id, Register(a, object, 1000));
  const absl::Status statuses[] = {
      registry_->Unregister(b.id, id),
      registry_->Use(id, 2000, 1, 1).status(),
      registry_->Register(b.id, object.name(), 1000).status(),
      registry_->Use(a.id, 0, 1, 1).status(),
      registry_->List(id).status(),
  };
  for (const absl::Status& status : statuses) {
    EXPECT_FALSE(status.ok());
    for (const std::string& secret : {a.id, a.key.value(), b.id, b.key.value(), id}) {
      EXPECT_THAT(std::string(status.message()), Not(HasSubstr(secret)));
    }
  }
}

TEST_F(RegionRegistryTest, RangesAreTheSameByTheirObject) {
  ShmObject object(1000);
  ShmObject other(1000);
  const Session session = Open();
  NORMD_ASSERT_OK_AND_ASSIGN(const std::string id, Register(session, object, 1000));
  NORMD_ASSERT_OK_AND_ASSIGN(const std::string again, Register(session, object, 900));
  NORMD_ASSERT_OK_AND_ASSIGN(const std::string elsewhere, Register(session, other, 1000));
  const struct {
    const std::string& region;
    int64_t offset;
    int64_t bytes;
    std::optional<bool> same;  // Nothing: they overlap.
  } cases[] = {
      {id, 100, 200, true},        {again, 100, 200, true},      {elsewhere, 100, 200, false},
      {elsewhere, 150, 10, false}, {id, 0, 100, false},          {id, 300, 100, false},
      {again, 0, 100, false},      {again, 300, 100, false},     {id, 0, 101, std::nullopt},
      {id, 299, 1, std::nullopt},  {id, 100, 199, std::nullopt}, {id, 101, 199, std::nullopt},
      {id, 0, 1000, std::nullopt}, {id, 150, 10, std::nullopt},  {again, 200, 200, std::nullopt},
  };
  NORMD_ASSERT_OK_AND_ASSIGN(const RegionUse x, registry_->Use(id, 100, 200, 1));
  for (const auto& c : cases) {
    NORMD_ASSERT_OK_AND_ASSIGN(const RegionUse y, registry_->Use(c.region, c.offset, c.bytes, 1));
    for (const auto& same : {SameRange(x, y), SameRange(y, x)}) {
      if (c.same.has_value()) {
        NORMD_ASSERT_OK(same);
        EXPECT_EQ(*same, *c.same) << c.offset << ' ' << c.bytes;
      } else {
        EXPECT_THAT(same, StatusIs(StatusCode::kInvalidArgument, "overlap")) << c.offset << ' ' << c.bytes;
      }
    }
  }
}

// Everything at once: regions are used by some while others unregister them, cut them short and end their sessions.
TEST_F(RegionRegistryTest, ManyThreads) {
  constexpr int kThreads = 8;
  constexpr int kRounds = 100;
  constexpr int64_t kBytes = 3 * 4096;
  struct Shared {
    base::Mutex mutex;
    std::vector<std::string> ids;
  } shared;
  std::vector<std::unique_ptr<ShmObject>> objects;
  for (int t = 0; t < kThreads; ++t) objects.push_back(std::make_unique<ShmObject>(kBytes));
  std::atomic<int> used = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      ShmObject& object = *objects[static_cast<size_t>(t)];
      for (int round = 0; round < kRounds; ++round) {
        object.Truncate(kBytes);
        const Session session = Open();
        std::vector<std::string> mine;
        for (int i = 0; i < 3; ++i) {
          NORMD_ASSERT_OK_AND_ASSIGN(std::string id, Register(session, object, kBytes));
          mine.push_back(id);
          const base::MutexLock lock(&shared.mutex);
          shared.ids.push_back(std::move(id));
          if (shared.ids.size() > 20) shared.ids.erase(shared.ids.begin());
        }
        for (int i = 0; i < 10; ++i) {
          std::string id;
          {
            const base::MutexLock lock(&shared.mutex);
            id = shared.ids[static_cast<size_t>(i * 7 + t) % shared.ids.size()];
          }
          const absl::StatusOr<RegionUse> use = registry_->Use(id, 4096, 4096, 64);
          EXPECT_THAT(use, AnyOf(IsOk(), StatusIs(StatusCode::kNotFound), StatusIs(StatusCode::kDataLoss)));
          if (!use.ok()) continue;
          ++used;
          // Each its own byte, as clients who keep their side would.
          static_cast<volatile char*>(use->data())[t] = 'x';
          EXPECT_THAT(use->CheckNotLost(), AnyOf(IsOk(), StatusIs(StatusCode::kDataLoss)));
        }
        EXPECT_THAT(registry_->List(session.id), IsOk());
        if (round % 3 == 0) object.Truncate(round % 2 == 0 ? 0 : 4096);
        if (round % 2 == 0) {
          EXPECT_THAT(registry_->Unregister(session.id, mine[1]), IsOk());
        }
        registry_->EndSession(session.id);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(used, 0);
  EXPECT_EQ(registry_->mapped_bytes(), 0);
  EXPECT_EQ(registry_->num_regions(), 0);
  for (const auto& object : objects) EXPECT_EQ(object->NumMappings(), 0);
}

}  // namespace
}  // namespace normd::shm
