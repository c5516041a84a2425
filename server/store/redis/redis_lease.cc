#include "server/store/redis/redis_lease.h"

#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/base/uid.h"
#include "server/store/redis/redis_scripts.h"

namespace normd::store {
namespace {

// A newer normd that stores things in another way writes another number.
constexpr char kFormat[] = "1";
// Renewals within the time of a lease.
constexpr int kRenewals = 3;

std::string Holder() {
  std::array<char, 256> host = {};
  gethostname(host.data(), host.size() - 1);
  return absl::StrCat("normd on ", host.data(), ", process ", getpid(), ", since ",
                      absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone()));
}

}  // namespace

RedisLease::RedisLease(const RedisLocation& location)
    : location_(location), keys_(location.prefix), holder_(Holder()), client_(location) {}

absl::StatusOr<std::unique_ptr<RedisLease>> RedisLease::Acquire(const RedisLocation& location) {
  std::unique_ptr<RedisLease> lease(new RedisLease(location));
  const std::vector<std::string> keys = {lease->keys_.owner(), lease->keys_.lease(), lease->keys_.format()};
  const std::vector<std::string> arguments = {base::NewUid(), lease->holder_,
                                              absl::StrCat(absl::ToInt64Milliseconds(location.lease)), kFormat};
  // When the lease of the other one ends, if it does nothing.
  absl::Time expiry = absl::InfiniteFuture();
  while (true) {
    absl::StatusOr<std::vector<RedisReply>> replies = lease->client_.Eval(kAcquireScript, keys, arguments);
    if (!replies.ok()) return replies.status();
    if (replies->front()->type == REDIS_REPLY_ERROR) return ReplyStatus(*replies->front());
    const absl::Span<redisReply* const> answer = Elements(*replies->front());
    const absl::string_view kind = answer.empty() ? "" : Text(*answer[0]);
    if (kind == "ok" && answer.size() == 2) {
      lease->token_ = std::string(Text(*answer[1]));
      lease->thread_ = std::thread([raw = lease.get()] { raw->Run(); });
      return lease;
    }
    if (kind == "format") {
      return absl::FailedPreconditionError(absl::StrCat("state store: its keys have format ", Text(*answer[1]),
                                                        " and were written by another normd; this one reads ",
                                                        kFormat));
    }
    int64_t left_ms = 0;
    if (kind != "held" || answer.size() != 3 || !absl::SimpleAtoi(Text(*answer[2]), &left_ms)) {
      return absl::InternalError("state store: Redis gave an unknown answer");
    }
    const absl::Time now = absl::Now();
    const absl::Time seen = now + absl::Milliseconds(left_ms);
    // More than measuring explains: it has been renewed.
    const bool alive = seen > expiry + location.lease / (2 * kRenewals);
    expiry = std::min(expiry, seen);
    if (alive || now > expiry + location.lease) {
      return absl::FailedPreconditionError(absl::StrCat("state store: another server uses it: ", Text(*answer[1])));
    }
    absl::SleepFor(location.lease / 50);
  }
}

RedisLease::~RedisLease() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
  const std::vector<std::string> keys = {keys_.owner(), keys_.lease()};
  client_.Eval(kReleaseScript, keys, {token_}).status().IgnoreError();
}

absl::Status RedisLease::Renew(RedisClient* client) const {
  const std::vector<std::string> keys = {keys_.owner(), keys_.lease()};
  absl::StatusOr<std::vector<RedisReply>> replies =
      client->Eval(kRenewScript, keys, {token_, holder_, absl::StrCat(absl::ToInt64Milliseconds(location_.lease))});
  if (!replies.ok()) return replies.status();
  if (replies->front()->type == REDIS_REPLY_ERROR) return ReplyStatus(*replies->front());
  const absl::Span<redisReply* const> answer = Elements(*replies->front());
  if (!answer.empty() && Text(*answer[0]) == "ok") return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("state store: another server has taken it over: ", answer.size() == 2 ? Text(*answer[1]) : "",
                   "; this server's layers are out of date: stop it"));
}

void RedisLease::Run() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!wake_.wait_for(lock, absl::ToChronoMilliseconds(location_.lease / kRenewals), [this] { return stopping_; })) {
    lock.unlock();
    // If it fails a later one may not; if it is lost the next write says so.
    Renew(&client_).IgnoreError();
    lock.lock();
  }
}

}  // namespace normd::store
