#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/store/redis/redis_store.h"
#include "tests/server/store/redis_server.h"
#include "tests/server/store/redis_store_data.h"
#include "tests/server/store/store_data.h"
#include "tests/status_matchers.h"

namespace normd::store {
namespace {

using tests::After;
using tests::IsOk;
using tests::LoadAll;
using tests::OpenRedis;
using tests::Put;
using tests::RedisSet;
using tests::SomeLayer;
using tests::Step;

// The master dies under writes, when its replica has not heard of the latest. Each step is repeated until it is stored.
class FailoverTest : public ::testing::TestWithParam<bool> {};

TEST_P(FailoverTest, EveryStoredStepIsThereOnce) {
  const bool cluster = GetParam();
  const auto set = cluster ? RedisSet::Cluster() : RedisSet::Sentinel();
  const std::string url = set->Location("normd", "&timeout-ms=500");
  auto store = OpenRedis(url);
  StateStore::SnapshotPtr newest = SomeLayer("a", 1);
  ASSERT_THAT(store->Write({Put(newest)}), IsOk());
  tests::RedisServer* master = nullptr;
  for (const auto& server : set->servers) {
    // A cluster says MOVED to whom does not have the key.
    if (absl::StrContains(server->Cli("role"), "master") &&
        absl::StrContains(server->Cli("exists {normd}:journals"), "1") &&
        !absl::StrContains(server->Cli("exists {normd}:journals"), "MOVED")) {
      master = server.get();
    }
  }
  ASSERT_NE(master, nullptr);
  int64_t sequence = 0;
  const auto step = [&] {
    const auto next = After(newest, static_cast<double>(++sequence));
    absl::Status status;
    do {
      status = store->Write({Step(next, newest, sequence)});
    } while (absl::IsUnavailable(status));
    ASSERT_THAT(status, IsOk());
    newest = next;
  };
  for (int i = 0; i < 200; ++i) ASSERT_NO_FATAL_FAILURE(step());
  // The replicas no longer hear of what is written: that is what a failover may lose.
  for (const auto& server : set->servers) {
    if (server.get() != master && !absl::StrContains(server->Cli("role"), "master")) server->Signal(SIGSTOP);
  }
  // Nor will they find it in their sockets.
  master->Cli("client kill type replica");
  for (int i = 0; i < 50; ++i) ASSERT_NO_FATAL_FAILURE(step());
  master->Kill();
  for (const auto& server : set->servers) {
    if (server.get() != master) server->Signal(SIGCONT);
  }
  const absl::Time killed = absl::Now();
  ASSERT_NO_FATAL_FAILURE(step());
  RecordProperty("failover_ms", static_cast<int>(absl::ToInt64Milliseconds(absl::Now() - killed)));
  std::printf("first step stored %.1f s after the kill\n", absl::ToDoubleSeconds(absl::Now() - killed));
  for (int i = 0; i < 100; ++i) ASSERT_NO_FATAL_FAILURE(step());
  store.reset();
  store = OpenRedis(url);
  const tests::Loaded loaded = LoadAll(store.get());
  ASSERT_EQ(loaded.layers.size(), 1);
  EXPECT_EQ(loaded.layers[0]->version, newest->version);
  EXPECT_EQ(loaded.layers[0]->content_hash, newest->content_hash);
  ASSERT_EQ(loaded.requests.size(), static_cast<std::size_t>(sequence));
  for (int64_t i = 0; i < sequence; ++i)
    EXPECT_EQ(loaded.requests[static_cast<std::size_t>(i)], absl::StrCat("r", i + 1));
}

INSTANTIATE_TEST_SUITE_P(Topologies, FailoverTest, ::testing::Values(false, true),
                         [](const auto& cluster) { return cluster.param ? "Cluster" : "Sentinel"; });

}  // namespace
}  // namespace normd::store
