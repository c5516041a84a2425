#include "server/store/redis/redis_membership.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/base/uid.h"
#include "server/layer/layer_state.h"
#include "server/store/record_format.h"
#include "server/store/redis/redis_scripts.h"

namespace normd::store {
namespace {

// A newer normd that stores things in another way writes another number.
constexpr char kFormatOfOne[] = "1";
constexpr char kFormat[] = "2";
constexpr int kSigns = 3;
constexpr int kLeasesToBeForgotten = 30;
constexpr int64_t kPage = 1000;

std::string Holder() {
  std::array<char, 256> host = {};
  gethostname(host.data(), host.size() - 1);
  return absl::StrCat("normd on ", host.data(), ", process ", getpid(), ", since ",
                      absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone()));
}

}  // namespace

absl::StatusOr<RedisMembership> RedisMembership::Join(const RedisLocation& location, RedisClient* client) {
  RedisMembership member;
  member.id_ = base::NewUid();
  member.first_journal_ = base::NewUid();
  member.holder_ = Holder();
  const RedisKeys key(location.prefix);
  const std::vector<std::string> keys = {key.format(), key.owner(), key.lease(), key.journals(), key.servers()};
  const std::vector<std::string> arguments = {
      member.id_,     member.first_journal_,
      member.holder_, absl::StrCat(absl::ToInt64Milliseconds(location.lease) * kLeasesToBeForgotten),
      kFormatOfOne,   kFormat};
  // When the lease of the other one ends, if it does nothing.
  absl::Time expiry = absl::InfiniteFuture();
  while (true) {
    absl::StatusOr<std::vector<RedisReply>> replies = client->Eval(kJoinScript, keys, arguments);
    if (!replies.ok()) return replies.status();
    if (replies->front()->type == REDIS_REPLY_ERROR) return ReplyStatus(*replies->front());
    const absl::Span<redisReply* const> answer = Elements(*replies->front());
    const absl::string_view kind = answer.empty() ? "" : Text(*answer[0]);
    if (kind == "ok" && answer.size() == 2) {
      if (Text(*answer[1]) != kFormat) {
        if (absl::Status status = member.Upgrade(location, client); !status.ok()) return status;
      }
      return member;
    }
    if (kind == "format") {
      return absl::FailedPreconditionError(absl::StrCat("state store: its keys have format ", Text(*answer[1]),
                                                        " and were written by another normd; this one reads ",
                                                        kFormatOfOne, " and ", kFormat));
    }
    int64_t left_ms = 0;
    if (kind != "held" || answer.size() != 3 || !absl::SimpleAtoi(Text(*answer[2]), &left_ms)) {
      return absl::InternalError("state store: Redis gave an unknown answer");
    }
    const absl::Time now = absl::Now();
    const absl::Time seen = now + absl::Milliseconds(left_ms);
    // More than measuring explains: it has been renewed.
    const bool alive = seen > expiry + location.lease / (2 * kSigns);
    expiry = std::min(expiry, seen);
    if (alive || now > expiry + location.lease) {
      return absl::FailedPreconditionError(
          absl::StrCat("state store: a server of an earlier version uses it, which does not share: ", Text(*answer[1]),
                       "; stop it"));
    }
    absl::SleepFor(location.lease / 50);
  }
}

absl::Status RedisMembership::Upgrade(const RedisLocation& location, RedisClient* client) const {
  const RedisKeys key(location.prefix);
  std::string after = "-";
  while (true) {
    const RedisCommand range[] = {{"ZRANGEBYLEX", key.index(), after, "+", "LIMIT", "0", absl::StrCat(kPage)}};
    absl::StatusOr<std::vector<RedisReply>> page = client->RunChecked(range);
    if (!page.ok()) return page.status();
    std::vector<std::string> uids;
    std::vector<RedisCommand> commands;
    for (const redisReply* uid : Elements(*page->front())) {
      uids.emplace_back(Text(*uid));
      commands.push_back({"HGET", key.layer(uids.back()), "settings"});
    }
    if (uids.empty()) break;
    absl::StatusOr<std::vector<RedisReply>> settings = client->RunChecked(commands);
    if (!settings.ok()) return settings.status();
    for (std::size_t i = 0; i < uids.size(); ++i) {
      if ((*settings)[i]->type == REDIS_REPLY_NIL) continue;
      layer::LayerSnapshot layer;
      if (absl::Status status = DecodeSettings(Text(*(*settings)[i]), &layer); !status.ok()) {
        return absl::DataLossError(absl::StrCat("state store: layer with uid ", uids[i], ": ", status.message()));
      }
      const std::vector<std::string> keys = {key.names(), key.layer(uids[i])};
      const std::vector<std::string> arguments = {layer.name, uids[i]};
      absl::StatusOr<std::vector<RedisReply>> named = client->Eval(kNameScript, keys, arguments);
      if (!named.ok()) return named.status();
      if (named->front()->type == REDIS_REPLY_ERROR) return ReplyStatus(*named->front());
    }
    after = absl::StrCat("(", uids.back());
  }
  return client->RunChecked({RedisCommand{"SET", key.format(), kFormat}}).status();
}

void RedisMembership::Leave(const RedisLocation& location, RedisClient* client) const {
  const RedisKeys key(location.prefix);
  // If Redis does not answer it is forgotten in the end.
  client->Run({RedisCommand{"HDEL", key.journals(), id_}, RedisCommand{"ZREM", key.servers(), id_ + " " + holder_}})
      .status()
      .IgnoreError();
}

std::string RedisMembership::SignOfLife(const RedisLocation& location) {
  const absl::Time now = absl::Now();
  if (now < next_sign_) return "";
  next_sign_ = now + location.lease / kSigns;
  return absl::StrCat(id_, " ", holder_);
}

}  // namespace normd::store
