#include "server/store/redis/redis_client.h"

#include <openssl/sha.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"

namespace normd::store {
namespace {

constexpr int kNumSlots = 16384;
constexpr absl::Duration kFirstPause = absl::Milliseconds(20);
constexpr absl::Duration kLongestPause = absl::Milliseconds(500);
// Of a large command, besides the time that each gets.
constexpr int64_t kBytesPerMillisecond = 10'000;

std::string Sha1(absl::string_view text) {
  unsigned char digest[SHA_DIGEST_LENGTH];
  SHA1(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest);
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest), sizeof(digest)});
}

bool StartsWithAny(absl::string_view text, std::initializer_list<absl::string_view> starts) {
  return std::any_of(starts.begin(), starts.end(), [&](absl::string_view s) { return absl::StartsWith(text, s); });
}

// Errors of a server that cannot do it, while another one, or the same one later, can. Nothing has been carried out.
bool PassesBy(absl::string_view error) {
  return StartsWithAny(error,
                       {"MOVED ", "ASK ", "TRYAGAIN", "LOADING", "READONLY", "CLUSTERDOWN", "MASTERDOWN", "BUSY "});
}

}  // namespace

int HashSlot(absl::string_view prefix) {
  // CRC-16/XMODEM, as Redis Cluster specifies.
  uint32_t crc = 0;
  for (const char c : prefix) {
    crc ^= uint32_t{static_cast<unsigned char>(c)} << 8;
    for (int bit = 0; bit < 8; ++bit) crc = ((crc << 1) ^ ((crc & 0x8000) != 0 ? 0x1021U : 0U)) & 0xffff;
  }
  return static_cast<int>(crc % kNumSlots);
}

absl::Status ReplyStatus(const redisReply& error) {
  const absl::string_view text = Text(error);
  const std::string message = absl::StrCat("redis: ", text);
  if (absl::StartsWith(text, "OOM ")) return absl::ResourceExhaustedError(message);
  if (StartsWithAny(text, {"NOAUTH", "WRONGPASS", "NOPERM"})) return absl::FailedPreconditionError(message);
  if (PassesBy(text) || StartsWithAny(text, {"MISCONF", "NOREPLICAS", "UNBLOCKED"})) {
    return absl::UnavailableError(message);
  }
  return absl::InternalError(message);
}

RedisClient::RedisClient(const RedisLocation& location)
    : location_(location), slot_(HashSlot(location.prefix)), pause_(kFirstPause) {}

absl::StatusOr<std::vector<RedisReply>> RedisClient::Run(absl::Span<const RedisCommand> commands, bool* unknown) {
  bool ignored = false;
  if (unknown == nullptr) unknown = &ignored;
  const absl::Time deadline = absl::Now() + location_.retry_time;
  const bool was_down = !failure_.ok();
  if (was_down && absl::Now() < next_attempt_) return failure_;
  while (true) {
    absl::Status why;
    std::optional<std::vector<RedisReply>> replies = Try(commands, unknown, &why);
    if (replies.has_value()) {
      failure_ = absl::OkStatus();
      pause_ = kFirstPause;
      return *std::move(replies);
    }
    // A wrong password does not become right.
    const bool hopeless = why.code() != absl::StatusCode::kUnavailable;
    if (was_down || hopeless || absl::Now() + pause_ >= deadline) {
      failure_ = why;
      next_attempt_ = absl::Now() + pause_;
      pause_ = std::min(2 * pause_, kLongestPause);
      return why;
    }
    if (!moved_.has_value()) {
      absl::SleepFor(pause_);
      pause_ = std::min(2 * pause_, kLongestPause);
    }
  }
}

std::optional<std::vector<RedisReply>> RedisClient::Try(absl::Span<const RedisCommand> commands, bool* unknown,
                                                        absl::Status* why) {
  if (connection_ == nullptr) *why = Connect();
  if (!why->ok()) return std::nullopt;
  int64_t bytes = 0;
  absl::Duration timeout = location_.command_timeout;
  for (const RedisCommand& command : commands) {
    for (const std::string& argument : command) bytes += static_cast<int64_t>(argument.size());
    if (command[0] == "WAIT") timeout += location_.wait_timeout;
  }
  timeout += absl::Milliseconds(bytes / kBytesPerMillisecond);
  absl::StatusOr<std::vector<RedisReply>> replies = connection_->Call(commands, timeout);
  if (!replies.ok()) {
    connection_ = nullptr;
    *unknown = true;
    *why = replies.status();
    return std::nullopt;
  }
  const auto passing = std::find_if(replies->begin(), replies->end(), [](const RedisReply& reply) {
    return reply->type == REDIS_REPLY_ERROR && PassesBy(Text(*reply));
  });
  if (passing == replies->end()) return *std::move(replies);

  const absl::string_view error = Text(**passing);
  *why = absl::UnavailableError(absl::StrCat("redis ", master_.ToString(), ": ", error));
  const std::optional<RedisEndpoint> target = Target(error);
  if (absl::StartsWith(error, "ASK ") && target.has_value()) {
    // The slot is on its way there: this once only.
    absl::StatusOr<std::unique_ptr<RedisConnection>> there = RedisConnection::Open(*target, location_, true);
    if (!there.ok()) return std::nullopt;
    std::vector<RedisCommand> asking;
    for (const RedisCommand& command : commands) {
      asking.push_back({"ASKING"});
      asking.push_back(command);
    }
    absl::StatusOr<std::vector<RedisReply>> asked = (*there)->Call(asking, timeout);
    if (!asked.ok()) {
      *unknown = true;
      return std::nullopt;
    }
    std::vector<RedisReply> result;
    for (std::size_t i = 1; i < asked->size(); i += 2) {
      if ((*asked)[i]->type == REDIS_REPLY_ERROR && PassesBy(Text(*(*asked)[i]))) return std::nullopt;
      result.push_back(std::move((*asked)[i]));
    }
    return result;
  }
  if (target.has_value()) moved_ = target;
  connection_ = nullptr;
  return std::nullopt;
}

absl::StatusOr<std::vector<RedisReply>> RedisClient::RunChecked(absl::Span<const RedisCommand> commands) {
  absl::StatusOr<std::vector<RedisReply>> replies = Run(commands);
  if (!replies.ok()) return replies;
  for (const RedisReply& reply : *replies) {
    if (reply->type == REDIS_REPLY_ERROR) return ReplyStatus(*reply);
  }
  return replies;
}

absl::StatusOr<std::vector<RedisReply>> RedisClient::Eval(absl::string_view script, absl::Span<const std::string> keys,
                                                          absl::Span<const std::string> arguments,
                                                          absl::Span<const RedisCommand> after, bool* unknown) {
  std::vector<RedisCommand> commands = {{"EVALSHA", Sha1(script), absl::StrCat(keys.size())}};
  commands[0].insert(commands[0].end(), keys.begin(), keys.end());
  commands[0].insert(commands[0].end(), arguments.begin(), arguments.end());
  commands.insert(commands.end(), after.begin(), after.end());
  absl::StatusOr<std::vector<RedisReply>> replies = Run(commands, unknown);
  if (!replies.ok() || !absl::StartsWith(Text(*replies->front()), "NOSCRIPT")) return replies;
  commands[0][0] = "EVAL";
  commands[0][1] = std::string(script);
  return Run(commands, unknown);
}

absl::Status RedisClient::Connect() {
  absl::StatusOr<RedisEndpoint> master = moved_.has_value() ? *moved_ : FindMaster();
  moved_.reset();
  if (!master.ok()) return master.status();
  master_ = *std::move(master);
  absl::StatusOr<std::unique_ptr<RedisConnection>> connection = RedisConnection::Open(master_, location_, true);
  if (!connection.ok()) return connection.status();
  // Sentinels and nodes may be behind, and an old master may have become a replica.
  const RedisCommand role[] = {{"ROLE"}};
  absl::StatusOr<std::vector<RedisReply>> replies = (*connection)->Call(role, location_.command_timeout);
  if (!replies.ok()) return replies.status();
  const redisReply& reply = *replies->front();
  if (reply.type == REDIS_REPLY_ERROR && !absl::StartsWith(Text(reply), "NOPERM")) return ReplyStatus(reply);
  if (!Elements(reply).empty() && Text(*Elements(reply)[0]) != "master") {
    return absl::UnavailableError(
        absl::StrCat("redis ", master_.ToString(), ": it is a read-only replica (READONLY), want the master"));
  }
  connection_ = *std::move(connection);
  ++connections_;
  return absl::OkStatus();
}

absl::StatusOr<RedisEndpoint> RedisClient::FindMaster() {
  switch (location_.topology) {
    case RedisLocation::Topology::kStandalone:
      return location_.endpoints[0];
    case RedisLocation::Topology::kSentinel:
      return AskSentinels();
    case RedisLocation::Topology::kCluster:
      return AskCluster();
  }
  return absl::InternalError("unknown topology");
}

absl::StatusOr<RedisEndpoint> RedisClient::AskSentinels() {
  absl::Status failure;
  for (const RedisEndpoint& sentinel : location_.endpoints) {
    absl::StatusOr<std::unique_ptr<RedisConnection>> connection = RedisConnection::Open(sentinel, location_, false);
    failure = connection.status();
    if (!failure.ok()) continue;
    const RedisCommand ask[] = {{"SENTINEL", "get-master-addr-by-name", location_.master_name}};
    absl::StatusOr<std::vector<RedisReply>> replies = (*connection)->Call(ask, location_.command_timeout);
    failure = replies.status();
    if (!failure.ok()) continue;
    const absl::Span<redisReply* const> address = Elements(*replies->front());
    RedisEndpoint master;
    if (address.size() == 2 && absl::SimpleAtoi(Text(*address[1]), &master.port)) {
      master.host = std::string(Text(*address[0]));
      return master;
    }
    failure = absl::UnavailableError(
        absl::StrCat("sentinel ", sentinel.ToString(), " knows no master '", location_.master_name, "'"));
  }
  return failure;
}

absl::StatusOr<RedisEndpoint> RedisClient::AskCluster() {
  absl::Status failure;
  std::vector<RedisEndpoint> candidates = nodes_;
  candidates.insert(candidates.end(), location_.endpoints.begin(), location_.endpoints.end());
  for (const RedisEndpoint& node : candidates) {
    absl::StatusOr<std::unique_ptr<RedisConnection>> connection = RedisConnection::Open(node, location_, true);
    failure = connection.status();
    if (!failure.ok()) continue;
    const RedisCommand ask[] = {{"CLUSTER", "SLOTS"}};
    absl::StatusOr<std::vector<RedisReply>> replies = (*connection)->Call(ask, location_.command_timeout);
    failure = replies.status();
    if (!failure.ok()) continue;
    if (replies->front()->type == REDIS_REPLY_ERROR) {
      failure = ReplyStatus(*replies->front());
      continue;
    }
    std::optional<RedisEndpoint> master;
    std::vector<RedisEndpoint> nodes;
    // Each: first slot, last slot, master, replicas; a node: host, port.
    for (const redisReply* range : Elements(*replies->front())) {
      const absl::Span<redisReply* const> parts = Elements(*range);
      for (std::size_t i = 2; i < parts.size(); ++i) {
        const absl::Span<redisReply* const> address = Elements(*parts[i]);
        if (address.size() < 2) continue;
        RedisEndpoint found{.host = std::string(Text(*address[0])), .port = static_cast<int>(address[1]->integer)};
        if (found.host.empty()) found.host = node.host;
        if (i == 2 && parts[0]->integer <= slot_ && slot_ <= parts[1]->integer) master = found;
        nodes.push_back(std::move(found));
      }
    }
    if (!nodes.empty()) nodes_ = std::move(nodes);
    if (master.has_value()) return *master;
    failure = absl::UnavailableError(absl::StrCat("redis ", node.ToString(), ": nobody serves slot ", slot_));
  }
  return failure;
}

std::optional<RedisEndpoint> RedisClient::Target(absl::string_view redirection) const {
  const std::vector<absl::string_view> words = absl::StrSplit(redirection, ' ');
  if (words.size() < 3 || (words[0] != "MOVED" && words[0] != "ASK")) return std::nullopt;
  const std::size_t colon = words[2].rfind(':');
  RedisEndpoint target;
  if (colon == absl::string_view::npos || !absl::SimpleAtoi(words[2].substr(colon + 1), &target.port)) {
    return std::nullopt;
  }
  target.host = colon == 0 ? master_.host : std::string(words[2].substr(0, colon));
  return target;
}

}  // namespace normd::store
