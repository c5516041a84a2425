#ifndef NORMD_SERVER_STORE_REDIS_REDIS_CLIENT_H_
#define NORMD_SERVER_STORE_REDIS_REDIS_CLIENT_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/store/redis/redis_connection.h"
#include "server/store/redis/redis_location.h"

namespace normd::store {

// The hash slot of a cluster in which the keys of this prefix are.
int HashSlot(absl::string_view prefix);

// What an error that Redis replies with means to a store: RESOURCE_EXHAUSTED (its memory is full), FAILED_PRECONDITION
// (it does not let us), UNAVAILABLE (not now) or INTERNAL.
absl::Status ReplyStatus(const redisReply& error);

// Talks with the master that has the keys of a location, wherever that is at the moment: it asks sentinels and the
// nodes of a cluster, follows redirections, and connects anew after a failure. Not thread-safe.
class RedisClient {
 public:
  explicit RedisClient(const RedisLocation& location);

  // Sends `commands` together and returns a reply to each. They may be carried out several times, and must be such that
  // it makes no difference. UNAVAILABLE: the location's retry_time is over. While it was so the last time, too, one
  // attempt is made, with pauses. `*unknown`: they may have been carried out, by an attempt of which nothing was heard.
  absl::StatusOr<std::vector<RedisReply>> Run(absl::Span<const RedisCommand> commands, bool* unknown = nullptr);

  // The same, where a reply that is an error is the status.
  absl::StatusOr<std::vector<RedisReply>> RunChecked(absl::Span<const RedisCommand> commands);

  // How many connections there have been. A failover, or a restart of Redis, makes it one more.
  int connections() const { return connections_; }

  // The replies of a script, and of the commands `after` it.
  absl::StatusOr<std::vector<RedisReply>> Eval(absl::string_view script, absl::Span<const std::string> keys,
                                               absl::Span<const std::string> arguments,
                                               absl::Span<const RedisCommand> after = {}, bool* unknown = nullptr);

 private:
  // One attempt. Not set: another one may help, for the reason in *why.
  std::optional<std::vector<RedisReply>> Try(absl::Span<const RedisCommand> commands, bool* unknown, absl::Status* why);
  absl::Status Connect();
  absl::StatusOr<RedisEndpoint> FindMaster();
  absl::StatusOr<RedisEndpoint> AskSentinels();
  absl::StatusOr<RedisEndpoint> AskCluster();
  // Of a redirection, "MOVED SLOT HOST:PORT".
  std::optional<RedisEndpoint> Target(absl::string_view redirection) const;

  const RedisLocation location_;
  const int slot_;
  std::unique_ptr<RedisConnection> connection_;
  int connections_ = 0;
  RedisEndpoint master_;
  // Where the next connection goes, without asking.
  std::optional<RedisEndpoint> moved_;
  // Nodes of the cluster, as far as they are known.
  std::vector<RedisEndpoint> nodes_;
  // The last Run ended so.
  absl::Status failure_;
  absl::Duration pause_;
  absl::Time next_attempt_;
};

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_REDIS_REDIS_CLIENT_H_
