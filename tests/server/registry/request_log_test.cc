#include "server/registry/request_log.h"

#include <atomic>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/server/registry/registry_fixture.h"
#include "tests/status_matchers.h"

namespace normd::registry {
namespace {

using absl::StatusCode;
using tests::StatusIs;

RequestLog::Outcome Made(uint64_t fingerprint, int64_t version) {
  return {.fingerprint = fingerprint, .version = version, .content_hash = "h", .num_batches_tracked = 3, .uid = "u"};
}

class RequestLogTest : public ::testing::Test {
 protected:
  // Remembers, and returns what the store was told.
  store::Update Record(RequestLog* log, const std::string& id, const RequestLog::Outcome& outcome) {
    store::Update update;
    log->Prepare("uid", id, outcome, &update);
    log->Record(update);
    return update;
  }

  static bool Knows(const RequestLog& log, const std::string& id) {
    const auto found = log.Find(id, 1);
    EXPECT_TRUE(found.ok());
    return *found != nullptr;
  }

  tests::FakeClock clock_;
  std::atomic<int64_t> total_ = 0;
};

TEST_F(RequestLogTest, RemembersWhatACallDid) {
  RequestLog log({}, &clock_, &total_);
  NORMD_ASSERT_OK_AND_ASSIGN(const RequestLog::Outcome* none, log.Find("a", 7));
  EXPECT_EQ(none, nullptr);
  const store::Update update = Record(&log, "a", Made(7, 2));
  NORMD_ASSERT_OK_AND_ASSIGN(const RequestLog::Outcome* found, log.Find("a", 7));
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(*found, Made(7, 2));
  ASSERT_TRUE(update.request.has_value());
  EXPECT_EQ(*update.request,
            (store::RequestRecord{
                .layer_uid = "uid", .sequence = 1, .request_id = "a", .time = clock_.Now(), .outcome = Made(7, 2)}));
  EXPECT_EQ(Record(&log, "b", Made(7, 3)).request->sequence, 2);
}

TEST_F(RequestLogTest, NoticesAnIdUsedForAnotherCall) {
  RequestLog log({}, &clock_, &total_);
  Record(&log, "a", Made(7, 2));
  EXPECT_THAT(log.Find("a", 8),
              StatusIs(StatusCode::kInvalidArgument, "request_id 'a' was used before for another call"));
}

TEST_F(RequestLogTest, AnEmptyIdIsNeverRemembered) {
  RequestLog log({}, &clock_, &total_);
  EXPECT_FALSE(Record(&log, "", Made(7, 2)).request.has_value());
  NORMD_ASSERT_OK_AND_ASSIGN(const RequestLog::Outcome* found, log.Find("", 8));
  EXPECT_EQ(found, nullptr);
}

TEST_F(RequestLogTest, ForgetsTheOldestBeyondItsCapacity) {
  constexpr int kCapacity = 5;
  RequestLog log({.per_layer = kCapacity}, &clock_, &total_);
  for (int i = 0; i < 23; ++i) {
    Record(&log, absl::StrCat("id", i), Made(1, i));
    for (int j = 0; j <= i; ++j) EXPECT_EQ(Knows(log, absl::StrCat("id", j)), j > i - kCapacity) << i << " " << j;
  }
  EXPECT_EQ(total_, kCapacity);
}

TEST_F(RequestLogTest, ForgetsWhatIsOlderThanTheWindow) {
  RequestLog log({.window = absl::Hours(1)}, &clock_, &total_);
  Record(&log, "a", Made(1, 1));
  clock_.Advance(absl::Minutes(40));
  Record(&log, "b", Made(1, 2));
  clock_.Advance(absl::Minutes(20));
  Record(&log, "c", Made(1, 3));
  EXPECT_TRUE(Knows(log, "a"));
  clock_.Advance(absl::Nanoseconds(1));
  Record(&log, "d", Made(1, 4));
  EXPECT_FALSE(Knows(log, "a"));
  EXPECT_TRUE(Knows(log, "b"));
}

TEST_F(RequestLogTest, AllLogsTogetherStayWithinTheTotal) {
  const RequestLimits limits = {.total = 10};
  {
    RequestLog first(limits, &clock_, &total_);
    RequestLog second(limits, &clock_, &total_);
    for (int i = 0; i < 10; ++i) Record(&first, absl::StrCat("id", i), Made(1, i));
    for (int i = 0; i < 10; ++i) Record(&second, absl::StrCat("id", i), Made(1, i));
    // Only a layer that changes gives up its own, and never its newest.
    EXPECT_TRUE(Knows(first, "id0"));
    EXPECT_TRUE(Knows(second, "id9"));
    EXPECT_FALSE(Knows(second, "id8"));
    EXPECT_EQ(total_, 11);
  }
  EXPECT_EQ(total_, 0);
}

TEST_F(RequestLogTest, TellsTheStoreWhatToForgetManyAtATime) {
  RequestLog log({.per_layer = 1}, &clock_, &total_);
  int64_t told = 0;
  int times = 0;
  for (int i = 0; i < 1000; ++i) {
    const store::Update update = Record(&log, absl::StrCat("id", i), Made(1, i));
    if (update.forget_through == 0) continue;
    EXPECT_GT(update.forget_through, told);
    EXPECT_LT(update.forget_through, update.request->sequence);
    told = update.forget_through;
    ++times;
  }
  EXPECT_GT(told, 700);
  EXPECT_LT(times, 5);
}

TEST_F(RequestLogTest, WhatWasTakenBackMayComeAgain) {
  RequestLog log({}, &clock_, &total_);
  Record(&log, "a", Made(1, 1));
  Record(&log, "b", Made(1, 2));
  log.TakeBack("a");
  log.TakeBack("unknown");
  EXPECT_FALSE(Knows(log, "a"));
  EXPECT_TRUE(Knows(log, "b"));
  EXPECT_EQ(Record(&log, "a", Made(1, 3)).request->sequence, 3);
  EXPECT_EQ(total_, 2);
}

TEST_F(RequestLogTest, GoesOnWhereTheStoreEnded) {
  RequestLog log({.per_layer = 2}, &clock_, &total_);
  for (int i = 5; i < 9; ++i) {
    log.Restore({.layer_uid = "uid",
                 .sequence = i,
                 .request_id = absl::StrCat("id", i),
                 .time = clock_.Now(),
                 .outcome = Made(1, i)});
  }
  EXPECT_FALSE(Knows(log, "id6"));
  EXPECT_TRUE(Knows(log, "id7"));
  EXPECT_EQ(Record(&log, "new", Made(1, 9)).request->sequence, 9);
}

}  // namespace
}  // namespace normd::registry
