#ifndef NORMD_SERVER_STORE_REDIS_REDIS_LOCATION_H_
#define NORMD_SERVER_STORE_REDIS_REDIS_LOCATION_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace normd::store {

struct RedisEndpoint {
  std::string host;
  int port = 6379;

  // HOST:PORT, with brackets around an IPv6 address.
  std::string ToString() const;
  friend bool operator==(const RedisEndpoint&, const RedisEndpoint&) = default;
};

// Which Redis, and how to talk with it. A plain value.
struct RedisLocation {
  enum class Topology { kStandalone, kSentinel, kCluster };
  Topology topology = Topology::kStandalone;
  // The server, the sentinels, or some nodes of the cluster.
  std::vector<RedisEndpoint> endpoints;
  // What the sentinels call the master.
  std::string master_name;
  std::string user;
  std::string password;
  int database = 0;

  // All keys begin with "{prefix}:". The braces put them into one hash slot of a cluster.
  std::string prefix = "normd";
  // Replicas that must have a change before it counts as stored, and how long they get for it.
  int wait_replicas = 0;
  absl::Duration wait_timeout = absl::Seconds(1);
  absl::Duration connect_timeout = absl::Seconds(1);
  // Of one command.
  absl::Duration command_timeout = absl::Seconds(2);
  // For how long a command is tried again before it counts as failed.
  absl::Duration retry_time = absl::Seconds(5);
  // How often a server asks what others have changed: what it shows may be so much older than what is stored.
  absl::Duration poll_interval = absl::Milliseconds(20);
  // A server gives three signs of life in this time, and is forgotten after 30 times as long.
  absl::Duration lease = absl::Seconds(10);

  bool tls = false;
  // Paths of PEM files. Empty: the system's authorities; no certificate of our own.
  std::string ca_file;
  std::string cert_file;
  std::string key_file;
};

// Whether `location` is a URL of Redis, right or wrong.
bool IsRedisLocation(absl::string_view location);

// The form of such a URL, for help texts and errors.
inline constexpr char kRedisForms[] =
    "redis[s]://[USER:PASSWORD@]HOST[:PORT][/DATABASE], redis[s]+sentinel://HOST:PORT,HOST:PORT/MASTER or "
    "redis[s]+cluster://HOST:PORT,HOST:PORT";

// INVALID_ARGUMENT: it says what is wrong, without the password.
absl::StatusOr<RedisLocation> ParseRedisLocation(absl::string_view url);

// The same URL with *** for the password, to be shown; also of what is no URL, but holds an @. Others are left as they
// are.
std::string WithoutPassword(absl::string_view location);

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_REDIS_REDIS_LOCATION_H_
