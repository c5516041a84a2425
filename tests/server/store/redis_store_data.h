#ifndef NORMD_TESTS_SERVER_STORE_REDIS_STORE_DATA_H_
#define NORMD_TESTS_SERVER_STORE_REDIS_STORE_DATA_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/store/redis/redis_store.h"
#include "tests/server/store/store_data.h"
#include "tests/status_matchers.h"

namespace normd::tests {

inline std::unique_ptr<store::RedisStore> OpenRedis(const std::string& url) {
  auto location = store::ParseRedisLocation(url);
  EXPECT_THAT(location, IsOk());
  auto opened = store::RedisStore::Open(*location);
  EXPECT_THAT(opened, IsOk());
  return opened.ok() ? *std::move(opened) : nullptr;
}

struct Loaded {
  std::vector<store::StateStore::SnapshotPtr> layers;
  std::vector<std::string> requests;
};

inline Loaded LoadAll(store::RedisStore* redis) {
  Loaded loaded;
  EXPECT_THAT(redis->Load(
                  [&](store::StateStore::SnapshotPtr layer) {
                    loaded.layers.push_back(std::move(layer));
                    return absl::OkStatus();
                  },
                  [&](const store::RequestRecord& request) {
                    loaded.requests.push_back(request.request_id);
                    return absl::OkStatus();
                  }),
              IsOk());
  return loaded;
}

// The next version of a layer, with other numbers in it.
inline store::StateStore::SnapshotPtr After(const store::StateStore::SnapshotPtr& before, double seed) {
  auto next = std::make_shared<layer::LayerSnapshot>(*before);
  next->statistics = SomeLayer(before->name, seed)->statistics;
  next->content_hash = layer::ContentHash(*next->config, *next->statistics, *next->affine);
  next->version = before->version + 1;
  return next;
}

// A step: a new version and the record of its request.
inline store::Update Step(const store::StateStore::SnapshotPtr& next, const store::StateStore::SnapshotPtr& before,
                          int64_t sequence) {
  store::Update update = Request(next->uid, sequence, absl::StrCat("r", sequence));
  update.put = next;
  update.replaces = before;
  update.request_after = sequence - 1;
  update.stands_alone = true;
  return update;
}

}  // namespace normd::tests

#endif  // NORMD_TESTS_SERVER_STORE_REDIS_STORE_DATA_H_
