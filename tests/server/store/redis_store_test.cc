#include "server/store/redis/redis_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <csignal>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/server/store/redis_proxy.h"
#include "tests/server/store/redis_server.h"
#include "tests/server/store/redis_store_data.h"
#include "tests/server/store/store_data.h"
#include "tests/status_matchers.h"

// What becomes of changes when Redis, or the way to it, fails.
namespace normd::store {
namespace {

using absl::StatusCode;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using tests::After;
using tests::IsOk;
using tests::LoadAll;
using tests::Loaded;
using tests::OpenRedis;
using tests::Put;
using tests::RedisProxy;
using tests::RedisSet;
using tests::Request;
using tests::SomeLayer;
using tests::StatusIs;
using tests::Step;

absl::Status OpenStatus(const std::string& url) {
  auto location = ParseRedisLocation(url);
  return location.ok() ? RedisStore::Open(*location).status() : location.status();
}

SharedStore::Changes ReadChanges(RedisStore* store) {
  auto changes = store->ReadChanges();
  EXPECT_THAT(changes, IsOk());
  return changes.ok() ? *std::move(changes) : SharedStore::Changes();
}

// Of those that are there, and of the records that are no layer's.
std::vector<std::string> Uids(const SharedStore::Changes& changes) {
  std::vector<std::string> uids;
  for (const SharedStore::Changed& changed : changes.layers) uids.push_back(changed.uid);
  return uids;
}

SharedStore::StoredLayer ReadLayer(RedisStore* store, const SharedStore::Query& query) {
  SharedStore::StoredLayer read;
  EXPECT_THAT(store->ReadLayers({query}, [&](const auto&, SharedStore::StoredLayer layer) { read = std::move(layer); }),
              IsOk());
  return read;
}

// What `write` says when Redis answers again.
template <typename Write>
absl::Status OnceAnswered(const Write& write) {
  while (true) {
    absl::Status status = write();
    if (status.code() != StatusCode::kUnavailable) return status;
  }
}

class RedisStoreTest : public ::testing::Test {
 protected:
  // With one layer in it, at version 42.
  void Start(std::vector<std::string> flags = {}) {
    set_ = RedisSet::Standalone(std::move(flags));
    proxy_ = std::make_unique<RedisProxy>(set_->servers[0]->port());
    url_ = absl::StrCat("redis://127.0.0.1:", proxy_->port(), "?lease-ms=1000&retry-ms=400");
    store_ = OpenRedis(url_);
    ASSERT_THAT(store_->Write({Put(first_)}), IsOk());
  }
  // What another server would find.
  Loaded Stored() {
    store_.reset();
    store_ = OpenRedis(set_->Location("normd"));
    return LoadAll(store_.get());
  }

  const StateStore::SnapshotPtr first_ = SomeLayer("a", 1);
  std::unique_ptr<RedisSet> set_;
  std::unique_ptr<RedisProxy> proxy_;
  std::string url_;
  std::unique_ptr<RedisStore> store_;
};

TEST_F(RedisStoreTest, RefusesWhatDoesNotBuildOnWhatIsStored) {
  Start();
  const auto second = After(first_, 2);
  const auto third = After(second, 3);
  EXPECT_THAT(store_->Write({Put(SomeLayer("other", 1)), Step(third, second, 1)}),
              StatusIs(StatusCode::kAborted,
                       absl::StrCat("has version 42:", first_->content_hash,
                                    " (\"-\": none), and the change builds on 43:", second->content_hash)));
  ASSERT_THAT(store_->Write({Step(second, first_, 1)}), IsOk());
  ASSERT_THAT(store_->Write({Step(third, second, 2)}), IsOk());
  const Loaded loaded = Stored();
  ASSERT_EQ(loaded.layers.size(), 1);
  EXPECT_EQ(loaded.layers[0]->version, 44);
  EXPECT_THAT(loaded.requests, ElementsAre("r1", "r2"));
}

TEST_F(RedisStoreTest, AnAnswerThatIsLostIsAskedForAgain) {
  Start();
  proxy_->DropReplies(2);
  const auto second = After(first_, 2);
  ASSERT_THAT(store_->Write({Step(second, first_, 1)}), IsOk());
  EXPECT_EQ(proxy_->dropped(), 2);
  // One that could not be undone, too.
  proxy_->DropReplies(1);
  Update remove;
  remove.remove = GoneLayer{.uid = first_->uid, .version = 43, .contributors = first_->contributors, .time = {}};
  ASSERT_THAT(store_->Write({remove}), IsOk());
  EXPECT_EQ(proxy_->dropped(), 3);
  const Loaded loaded = Stored();
  EXPECT_THAT(loaded.layers, ::testing::IsEmpty());
  EXPECT_THAT(loaded.requests, ElementsAre("r1"));
}

TEST_F(RedisStoreTest, AChangeOfWhichNothingWasHeardIsFoundAfterwards) {
  Start();
  LoadAll(store_.get());
  proxy_->DropReplies(1, true);
  const auto second = After(first_, 2);
  const absl::Status lost = store_->Write({Put(SomeLayer("made", 3)), Step(second, first_, 1)});
  EXPECT_THAT(lost, StatusIs(StatusCode::kUnavailable));
  EXPECT_TRUE(IsOutcomeUnknown(lost));
  // It is there.
  EXPECT_THAT(set_->servers[0]->Cli("hget {normd}:layer:uid-of-a v"), HasSubstr("43:"));
  // Nothing can be said yet, and nothing is sent.
  EXPECT_FALSE(IsOutcomeUnknown(store_->Write({Step(second, first_, 1)})));
  proxy_->RefuseAll(false);
  const auto other = After(first_, 9);
  const absl::Status status = OnceAnswered([&] { return store_->Write({Step(other, first_, 1)}); });
  EXPECT_TRUE(IsConflict(status)) << status;
  EXPECT_THAT(ConflictUids(status), ElementsAre("uid-of-a"));
  const SharedStore::Changes changes = ReadChanges(store_.get());
  ASSERT_EQ(changes.all, true);
  EXPECT_THAT(Uids(changes), ::testing::UnorderedElementsAre("", "uid-of-a", "uid-of-made"));
  EXPECT_THAT(ReadChanges(store_.get()).layers, ::testing::IsEmpty());
  ASSERT_THAT(store_->Write({Step(After(second, 5), second, 2)}), IsOk());
  const Loaded loaded = Stored();
  ASSERT_EQ(loaded.layers.size(), 2);
  EXPECT_EQ(loaded.layers[0]->version, 44);
  EXPECT_THAT(loaded.requests, ElementsAre("r1", "r2"));
}

TEST_F(RedisStoreTest, AnAttemptThatComesLateIsRefused) {
  Start();
  LoadAll(store_.get());
  const auto second = After(first_, 2);
  store_.reset();
  store_ = OpenRedis(set_->Location("normd", "&timeout-ms=100&retry-ms=200"));
  LoadAll(store_.get());
  // Redis stands still: what is sent waits in its socket.
  set_->servers[0]->Signal(SIGSTOP);
  EXPECT_TRUE(IsOutcomeUnknown(store_->Write({Step(second, first_, 1)})));
  set_->servers[0]->Signal(SIGCONT);
  // Whichever comes first, one of the two is there, once.
  const auto other = After(first_, 9);
  const absl::Status status = OnceAnswered([&] { return store_->Write({Step(other, first_, 1)}); });
  EXPECT_TRUE(status.ok() || IsConflict(status)) << status;
  const Loaded loaded = Stored();
  ASSERT_EQ(loaded.layers.size(), 1);
  EXPECT_EQ(loaded.layers[0]->content_hash, status.ok() ? other->content_hash : second->content_hash);
  EXPECT_THAT(loaded.requests, ElementsAre("r1"));
}

TEST_F(RedisStoreTest, ADeletionOfWhichNothingWasHeardIsFoundAfterwards) {
  Start();
  LoadAll(store_.get());
  proxy_->DropReplies(1, true);
  Update remove;
  remove.remove = GoneLayer{.uid = first_->uid, .version = 42, .contributors = first_->contributors, .time = {}};
  EXPECT_TRUE(IsOutcomeUnknown(store_->Write({remove})));
  proxy_->RefuseAll(false);
  const absl::Status status = OnceAnswered([&] { return store_->Write({Step(After(first_, 2), first_, 1)}); });
  EXPECT_TRUE(IsConflict(status)) << status;
  EXPECT_THAT(Uids(ReadChanges(store_.get())), ElementsAre(""));
  EXPECT_THAT(Stored().layers, ::testing::IsEmpty());
}

TEST_F(RedisStoreTest, GoesOnAfterAnOutage) {
  Start();
  proxy_->RefuseAll(true);
  const auto second = After(first_, 2);
  const absl::Status down = store_->Write({Step(second, first_, 1)});
  EXPECT_THAT(down, StatusIs(StatusCode::kUnavailable));
  const absl::Time start = absl::Now();
  for (int i = 0; i < 20; ++i)
    EXPECT_THAT(store_->Write({Step(second, first_, 1)}), StatusIs(StatusCode::kUnavailable));
  EXPECT_LT(absl::Now() - start, absl::Seconds(2));
  proxy_->RefuseAll(false);
  absl::Status status;
  do {
    status = store_->Write({Step(second, first_, 1)});
  } while (status.code() == StatusCode::kUnavailable);
  ASSERT_THAT(status, IsOk());
  EXPECT_EQ(Stored().layers[0]->version, 43);
}

TEST_F(RedisStoreTest, AFullRedisChangesNothing) {
  Start();
  set_->servers[0]->Cli("config set maxmemory-policy noeviction");
  set_->servers[0]->Cli("config set maxmemory 1");
  const auto second = After(first_, 2);
  EXPECT_THAT(store_->Write({Step(second, first_, 1)}), StatusIs(StatusCode::kResourceExhausted, "OOM"));
  set_->servers[0]->Cli("config set maxmemory 0");
  ASSERT_THAT(store_->Write({Step(second, first_, 1)}), IsOk());
  EXPECT_EQ(Stored().layers[0]->version, 43);
}

TEST_F(RedisStoreTest, AReplicaIsNoPlaceToWrite) {
  Start();
  set_->servers[0]->Cli(absl::StrCat("replicaof 127.0.0.1 ", set_->servers[0]->port()));
  const auto second = After(first_, 2);
  EXPECT_THAT(store_->Write({Step(second, first_, 1)}), StatusIs(StatusCode::kUnavailable, "READONLY"));
  EXPECT_THAT(OpenStatus(url_), StatusIs(StatusCode::kUnavailable, "read-only replica"));
  set_->servers[0]->Cli("replicaof no one");
  absl::Status status;
  do {
    status = store_->Write({Step(second, first_, 1)});
  } while (status.code() == StatusCode::kUnavailable);
  EXPECT_THAT(status, IsOk());
}

TEST_F(RedisStoreTest, SeveralServersHearOfEachOther) {
  Start();
  LoadAll(store_.get());
  const auto other = OpenRedis(set_->Location("normd"));
  ASSERT_EQ(LoadAll(other.get()).layers.size(), 1);
  EXPECT_THAT(ReadChanges(other.get()).layers, ::testing::IsEmpty());
  const auto second = After(first_, 2);
  ASSERT_THAT(other->Write({Step(second, first_, 1)}), IsOk());
  // Its own change is no news.
  EXPECT_THAT(ReadChanges(other.get()).layers, ::testing::IsEmpty());
  const absl::Status stale = store_->Write({Step(After(first_, 3), first_, 1)});
  EXPECT_TRUE(IsConflict(stale)) << stale;
  SharedStore::Changes changes = ReadChanges(store_.get());
  EXPECT_FALSE(changes.all);
  ASSERT_EQ(changes.layers.size(), 1);
  EXPECT_EQ(changes.layers[0].uid, first_->uid);
  EXPECT_EQ(changes.layers[0].version, 43);
  EXPECT_EQ(changes.layers[0].content_hash, second->content_hash);
  EXPECT_EQ(changes.layers[0].last_sequence, 1);
  const SharedStore::StoredLayer read = ReadLayer(store_.get(), {first_->uid, {}});
  ASSERT_NE(read.snapshot, nullptr);
  tests::ExpectSame(*read.snapshot, *second);
  EXPECT_TRUE(read.all_requests);
  ASSERT_EQ(read.requests.size(), 1);
  EXPECT_EQ(read.requests[0].request_id, "r1");

  // Of the records those that it does not know, or all if what it knows is not there.
  ASSERT_THAT(store_->Write({Step(After(second, 3), second, 2)}), IsOk());
  SharedStore::StoredLayer rest = ReadLayer(other.get(), {first_->uid, {1, "r1"}});
  EXPECT_FALSE(rest.all_requests);
  ASSERT_EQ(rest.requests.size(), 1);
  EXPECT_EQ(rest.requests[0].request_id, "r2");
  rest = ReadLayer(other.get(), {first_->uid, {1, "forgotten by a failover"}});
  EXPECT_TRUE(rest.all_requests);
  EXPECT_EQ(rest.requests.size(), 2);
}

TEST_F(RedisStoreTest, TwoServersMakeNoTwoLayersOfANameAndCarryNoRequestOutTwice) {
  Start();
  LoadAll(store_.get());
  const auto other = OpenRedis(set_->Location("normd"));
  LoadAll(other.get());
  auto same_name = std::make_shared<layer::LayerSnapshot>(*SomeLayer("b", 1));
  same_name->uid = "another uid";
  ASSERT_THAT(store_->Write({Put(SomeLayer("b", 1))}), IsOk());
  EXPECT_TRUE(IsConflict(other->Write({Put(same_name)})));
  // A request that changes nothing, whose number both have free.
  Update request = Request(first_->uid, 1, "once");
  request.replaces = first_;
  request.request_after = 0;
  ASSERT_THAT(store_->Write({request}), IsOk());
  EXPECT_TRUE(IsConflict(other->Write({request})));
  // And one that is no layer's.
  Update lifecycle = Request("", 1, "create");
  lifecycle.request_after = 0;
  ASSERT_THAT(other->Write({lifecycle}), IsOk());
  EXPECT_TRUE(IsConflict(store_->Write({lifecycle})));
  // A change of a layer that is gone does not bring it back.
  Update remove;
  remove.replaces = first_;
  remove.remove = GoneLayer{.uid = first_->uid, .version = 42, .contributors = first_->contributors, .time = {}};
  ASSERT_THAT(store_->Write({remove}), IsOk());
  EXPECT_TRUE(IsConflict(other->Write({remove})));
  EXPECT_TRUE(IsConflict(store_->Write({Step(After(first_, 2), first_, 2)})));
  EXPECT_TRUE(IsConflict(other->Write({Step(After(first_, 2), first_, 2)})));
  // What has been brought back is not forgotten.
  ASSERT_THAT(store_->Write({Put(first_)}), IsOk());
  Update forget;
  forget.forget = first_->uid;
  EXPECT_TRUE(IsConflict(other->Write({forget})));
  EXPECT_EQ(Stored().requests.size(), 2);
}

TEST_F(RedisStoreTest, TakesOverAStoreOfFormat1AndItsServerWritesNoMore) {
  Start();
  store_.reset();
  const tests::RedisServer& redis = *set_->servers[0];
  for (const char* key : {"names", "changes", "changed", "journals", "servers"}) {
    redis.Cli(absl::StrCat("del {normd}:", key));
  }
  redis.Cli("set {normd}:format 1");
  redis.Cli("set {normd}:owner 7:of-format-1");
  redis.Cli("set {normd}:lease normd-on-a-host px 100000");
  std::atomic<bool> done = false;
  // It lives.
  std::thread renews([&] {
    while (!done) redis.Cli("set {normd}:lease normd-on-a-host px 100000");
  });
  EXPECT_THAT(OpenStatus(set_->Location("normd")),
              StatusIs(StatusCode::kFailedPrecondition, "does not share: normd-on-a-host"));
  done = true;
  renews.join();
  redis.Cli("del {normd}:lease");
  store_ = OpenRedis(set_->Location("normd"));
  ASSERT_EQ(LoadAll(store_.get()).layers.size(), 1);
  EXPECT_THAT(redis.Cli("get {normd}:owner"), HasSubstr("8:shared"));
  EXPECT_THAT(redis.Cli("get {normd}:format"), HasSubstr("2"));
  EXPECT_THAT(redis.Cli("hget {normd}:names a"), HasSubstr("uid-of-a"));
  redis.Cli("set {normd}:format 3");
  EXPECT_THAT(OpenStatus(set_->Location("normd")), StatusIs(StatusCode::kFailedPrecondition, "have format 3"));
}

// A Redis that comes back as it was some time ago is what a failover makes of one, too.
class ForgetfulRedisTest : public RedisStoreTest {
 protected:
  void Remember() { set_->servers[0]->Cli("save"); }
  void Forget() {
    set_->servers[0]->Kill();
    set_->servers[0]->Start();
  }
  std::unique_ptr<RedisStore> OpenAnother(std::vector<std::string>* warnings) {
    auto location = ParseRedisLocation(set_->Location("normd", "&timeout-ms=1000"));
    EXPECT_THAT(location, IsOk());
    auto store = RedisStore::Open(*location, [warnings](const std::string& what) { warnings->push_back(what); });
    EXPECT_THAT(store, IsOk());
    LoadAll(store->get());
    return *std::move(store);
  }
};

TEST_F(ForgetfulRedisTest, ServersThatChangedALayerInTurnSendThatAgainInTurn) {
  Start();
  std::vector<std::string> warnings[2];
  std::unique_ptr<RedisStore> servers[2] = {OpenAnother(&warnings[0]), OpenAnother(&warnings[1])};
  Remember();
  StateStore::SnapshotPtr newest = first_;
  for (int i = 0; i < 20; ++i) {
    const auto next = After(newest, i);
    // Now and then twice.
    ASSERT_THAT(servers[(i / 2 + i / 3) % 2]->Write({Step(next, newest, i + 1)}), IsOk());
    newest = next;
  }
  Forget();
  EXPECT_THAT(set_->servers[0]->Cli("hget {normd}:layer:uid-of-a v"), HasSubstr("42:"));
  std::vector<std::thread> threads;
  for (const std::unique_ptr<RedisStore>& server : servers) {
    threads.emplace_back([&server] {
      const absl::Status status = OnceAnswered([&] { return server->ReadChanges().status(); });
      EXPECT_THAT(status, IsOk());
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& list : warnings) EXPECT_THAT(list, ::testing::IsEmpty());
  const Loaded loaded = Stored();
  ASSERT_EQ(loaded.layers.size(), 1);
  EXPECT_EQ(loaded.layers[0]->version, newest->version);
  EXPECT_EQ(loaded.layers[0]->content_hash, newest->content_hash);
  EXPECT_EQ(loaded.requests.size(), 20);
}

TEST_F(ForgetfulRedisTest, WhereAnotherServerHasGoneOnTheChangeIsLostAndNamed) {
  Start();
  const auto b = SomeLayer("b", 1);
  ASSERT_THAT(store_->Write({Put(b)}), IsOk());
  std::vector<std::string> warnings;
  std::vector<std::string> of_other;
  const auto server = OpenAnother(&warnings);
  const auto other = OpenAnother(&of_other);
  Remember();
  const auto second = After(first_, 2);
  const auto third = After(second, 3);
  const auto second_b = After(b, 2);
  // The two have nothing to do with each other.
  ASSERT_THAT(server->Write({Step(second, first_, 1), Step(second_b, b, 1)}), IsOk());
  ASSERT_THAT(server->Write({Step(third, second, 2)}), IsOk());
  Forget();
  const auto gone_on = After(first_, 9);
  ASSERT_THAT(OnceAnswered([&] { return other->Write({Step(gone_on, first_, 1)}); }), IsOk());
  SharedStore::Changes changes;
  ASSERT_THAT(OnceAnswered([&] {
                auto read = server->ReadChanges();
                if (read.ok()) changes = *read;
                return read.status();
              }),
              IsOk());
  EXPECT_TRUE(changes.all);
  EXPECT_THAT(warnings, ElementsAre(HasSubstr("it is lost: 'a' version 43"), HasSubstr("it is lost: 'a' version 44")));
  EXPECT_THAT(of_other, ::testing::IsEmpty());
  // It goes on.
  ASSERT_THAT(server->Write({Step(After(gone_on, 4), gone_on, 2)}), IsOk());
  const Loaded loaded = Stored();
  ASSERT_EQ(loaded.layers.size(), 2);
  EXPECT_EQ(loaded.layers[0]->version, 44);
  EXPECT_EQ(loaded.layers[1]->content_hash, second_b->content_hash);
  EXPECT_EQ(loaded.requests.size(), 3);
}

TEST_F(RedisStoreTest, RefusesToGoOnWithAnEmptyRedis) {
  Start();
  LoadAll(store_.get());
  set_->servers[0]->Cli("flushall");
  EXPECT_THAT(store_->Write({Put(SomeLayer("b", 2))}), StatusIs(StatusCode::kFailedPrecondition, "has lost all of it"));
  EXPECT_THAT(store_->ReadChanges(), StatusIs(StatusCode::kFailedPrecondition, "has lost all of it"));
}

TEST_F(RedisStoreTest, WaitsForReplicasOrSaysThatItCannotTell) {
  Start();
  store_.reset();
  store_ = OpenRedis(set_->Location("normd", "&wait=1&wait-timeout-ms=50&retry-ms=200"));
  LoadAll(store_.get());
  const auto second = After(first_, 2);
  const absl::Status alone = store_->Write({Step(second, first_, 1)});
  EXPECT_THAT(alone, StatusIs(StatusCode::kUnavailable, "0 replicas have the change in time, want 1"));
  EXPECT_TRUE(IsOutcomeUnknown(alone));
  tests::RedisServer replica(
      {"--replicaof", absl::StrCat("127.0.0.1 ", set_->servers[0]->port()), "--repl-diskless-sync-delay", "0"});
  replica.Await("info replication", "master_link_status:up");
  // It is there after all.
  const absl::Status status = OnceAnswered([&] { return store_->Write({Step(second, first_, 1)}); });
  EXPECT_TRUE(IsConflict(status)) << status;
  EXPECT_THAT(Uids(ReadChanges(store_.get())), ElementsAre("uid-of-a"));
  // One that is there, in the time that a busy machine takes.
  store_.reset();
  store_ = OpenRedis(set_->Location("normd", "&wait=1&wait-timeout-ms=5000&retry-ms=30000"));
  LoadAll(store_.get());
  ASSERT_THAT(store_->Write({Step(After(second, 3), second, 2)}), IsOk());
  EXPECT_THAT(replica.Cli("hget {normd}:layer:uid-of-a v"), HasSubstr("44:"));
  EXPECT_THAT(Stored().requests, ElementsAre("r1", "r2"));
}

TEST(RedisAccessTest, WrongPasswordAndWrongAuthorityAreRefused) {
  const auto set = RedisSet::Tls();
  const std::string host = set->url.substr(set->url.rfind('@') + 1);
  EXPECT_THAT(OpenStatus(absl::StrCat("rediss://trainer:wrong@", host, "?prefix=x", set->options)),
              StatusIs(StatusCode::kFailedPrecondition, "WRONGPASS"));
  const auto other = RedisSet::Tls();
  const std::string url = absl::StrCat(set->url, "?prefix=x&retry-ms=100&ca=", other->servers[0]->folder(),
                                       "/ca.pem&cert=", set->servers[0]->folder(),
                                       "/redis.pem&key=", set->servers[0]->folder(), "/redis.key");
  EXPECT_THAT(OpenStatus(url), StatusIs(StatusCode::kUnavailable, "TLS"));
  EXPECT_THAT(OpenStatus(absl::StrCat(set->url, "?ca=/nowhere")),
              StatusIs(StatusCode::kFailedPrecondition, "cannot use /nowhere"));
}

}  // namespace
}  // namespace normd::store
