#include "server/registry/request_log.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "tests/status_matchers.h"

namespace normd::registry {
namespace {

using absl::StatusCode;
using tests::StatusIs;

RequestLog::Outcome Made(uint64_t fingerprint, int64_t version) {
  return {.fingerprint = fingerprint, .version = version, .content_hash = "h", .num_batches_tracked = 3, .uid = "u"};
}

TEST(RequestLogTest, RemembersWhatACallDid) {
  RequestLog log;
  NORMD_ASSERT_OK_AND_ASSIGN(const RequestLog::Outcome* none, log.Find("a", 7));
  EXPECT_EQ(none, nullptr);
  log.Record("a", Made(7, 2));
  NORMD_ASSERT_OK_AND_ASSIGN(const RequestLog::Outcome* found, log.Find("a", 7));
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->version, 2);
  EXPECT_EQ(found->content_hash, "h");
  EXPECT_EQ(found->num_batches_tracked, 3);
  EXPECT_EQ(found->uid, "u");
}

TEST(RequestLogTest, NoticesAnIdUsedForAnotherCall) {
  RequestLog log;
  log.Record("a", Made(7, 2));
  EXPECT_THAT(log.Find("a", 8),
              StatusIs(StatusCode::kInvalidArgument, "request_id 'a' was used before for another call"));
}

TEST(RequestLogTest, AnEmptyIdIsNeverRemembered) {
  RequestLog log;
  log.Record("", Made(7, 2));
  NORMD_ASSERT_OK_AND_ASSIGN(const RequestLog::Outcome* found, log.Find("", 8));
  EXPECT_EQ(found, nullptr);
}

TEST(RequestLogTest, ForgetsTheOldestBeyondItsCapacity) {
  constexpr int kCapacity = 5;
  RequestLog log(kCapacity);
  for (int i = 0; i < 23; ++i) {
    log.Record(absl::StrCat("id", i), Made(1, i));
    for (int j = 0; j <= i; ++j) {
      NORMD_ASSERT_OK_AND_ASSIGN(const RequestLog::Outcome* found, log.Find(absl::StrCat("id", j), 1));
      if (j > i - kCapacity) {
        ASSERT_NE(found, nullptr) << i << " " << j;
        EXPECT_EQ(found->version, j);
      } else {
        EXPECT_EQ(found, nullptr) << i << " " << j;
      }
    }
  }
}

}  // namespace
}  // namespace normd::registry
