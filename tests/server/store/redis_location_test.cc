#include "server/store/redis/redis_location.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/store/redis/redis_client.h"
#include "tests/status_matchers.h"

namespace normd::store {
namespace {

using absl::StatusCode;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using tests::IsOk;
using tests::StatusIs;

TEST(RedisLocationTest, ReadsEveryForm) {
  auto plain = ParseRedisLocation("redis://localhost");
  ASSERT_THAT(plain, IsOk());
  EXPECT_THAT(plain->endpoints, ElementsAre(RedisEndpoint{"localhost", 6379}));
  EXPECT_FALSE(plain->tls);
  EXPECT_EQ(plain->prefix, "normd");

  auto tls = ParseRedisLocation("rediss://us%3Aer:p%40ss:/@[::1]:7000/3?ca=/a/ca.pem&prefix=x&wait=2&lease-ms=700");
  ASSERT_THAT(tls, IsOk());
  EXPECT_TRUE(tls->tls);
  EXPECT_EQ(tls->user, "us:er");
  EXPECT_EQ(tls->password, "p@ss:/");
  EXPECT_THAT(tls->endpoints, ElementsAre(RedisEndpoint{"::1", 7000}));
  EXPECT_EQ(tls->endpoints[0].ToString(), "[::1]:7000");
  EXPECT_EQ(tls->database, 3);
  EXPECT_EQ(tls->ca_file, "/a/ca.pem");
  EXPECT_EQ(tls->prefix, "x");
  EXPECT_EQ(tls->wait_replicas, 2);
  EXPECT_EQ(tls->lease, absl::Milliseconds(700));

  auto sentinel = ParseRedisLocation("redis+sentinel://:secret@a:1,b/main");
  ASSERT_THAT(sentinel, IsOk());
  EXPECT_EQ(sentinel->topology, RedisLocation::Topology::kSentinel);
  EXPECT_THAT(sentinel->endpoints, ElementsAre(RedisEndpoint{"a", 1}, RedisEndpoint{"b", 26379}));
  EXPECT_EQ(sentinel->master_name, "main");
  EXPECT_EQ(sentinel->user, "");
  EXPECT_EQ(sentinel->password, "secret");

  auto cluster = ParseRedisLocation("rediss+cluster://a:1,b:2");
  ASSERT_THAT(cluster, IsOk());
  EXPECT_TRUE(cluster->tls);
  EXPECT_EQ(cluster->topology, RedisLocation::Topology::kCluster);
}

TEST(RedisLocationTest, SaysWhatIsWrongButNotThePassword) {
  for (const auto& [url, cause] :
       {std::pair("redis://u:secret@h:99999", "port '99999', want 1 to 65535"),
        std::pair("redis://u:secret@", "want HOST:PORT"), std::pair("redis://u:secret@a,b", "names several servers"),
        std::pair("redis://u:secret@a/x", "database is 'x'"), std::pair("redis+sentinel://u:secret@a", "no /MASTER"),
        std::pair("redis+cluster://u:secret@a/1", "no databases"),
        std::pair("redis://u:secret@a?wat=1", "unknown option 'wat'"),
        std::pair("redis://u:secret@a?wait=-1", "wait is '-1', want 0 to 100"),
        std::pair("redis://u:secret@a?prefix={x}", "without braces"),
        std::pair("redis://u:secret@a?ca=/x", "ca needs TLS"), std::pair("redis://u:secret%2@a", "two hex digits"),
        std::pair("redis://u:secret?x@a", "'?' before the last '@'"),
        std::pair("redis://u:x?secret@a?wait=1", "written as %3F"), std::pair("redis:u:secret@a", "no ://")}) {
    const auto parsed = ParseRedisLocation(url);
    EXPECT_THAT(parsed, StatusIs(StatusCode::kInvalidArgument, cause)) << url;
    if (std::string(url).find("://") != std::string::npos) {
      EXPECT_THAT(std::string(parsed.status().message()), Not(HasSubstr("secret")));
    }
  }
  EXPECT_EQ(WithoutPassword("redis://u:se:cr@et@h:1/2?prefix=a@b"), "redis://u:***@h:1/2?prefix=a@b");
  EXPECT_EQ(WithoutPassword("redis://u:sec?ret@h:1"), "redis://u:***@h:1");
  EXPECT_EQ(WithoutPassword("redis://u:s@e?c@ret@h:1?wait=1&prefix=a@b"), "redis://u:***@h:1?wait=1&prefix=a@b");
  EXPECT_EQ(WithoutPassword("redis://h:1?prefix=a@b"), "redis://h:1?prefix=a@b");
  EXPECT_EQ(WithoutPassword("redis://h:1"), "redis://h:1");
  EXPECT_EQ(WithoutPassword("sqlite:/a:b@c"), "sqlite:/a:b@c");
  // No location that there is.
  EXPECT_EQ(WithoutPassword("redis:u:secret@h:1"), "redis:***@h:1");
  EXPECT_EQ(WithoutPassword("postgres://u:s@ecret@h"), "postgres:***@h");
  EXPECT_EQ(WithoutPassword("u secret@h"), "***@h");
  EXPECT_EQ(WithoutPassword("nonsense"), "nonsense");
}

// What Redis's own documentation gives as examples of keys and slots.
TEST(RedisLocationTest, HashSlotsAreThoseOfRedis) {
  EXPECT_EQ(HashSlot("123456789"), 0x31c3);
  EXPECT_EQ(HashSlot("foo"), 12182);
  EXPECT_EQ(HashSlot("somekey"), 11058);
}

}  // namespace
}  // namespace normd::store
