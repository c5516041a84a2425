#ifndef NORMD_SERVER_STORE_REDIS_REDIS_MEMBERSHIP_H_
#define NORMD_SERVER_STORE_REDIS_REDIS_MEMBERSHIP_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/store/redis/redis_client.h"
#include "server/store/redis/redis_keys.h"
#include "server/store/redis/redis_location.h"

namespace normd::store {

// This server among those that use a store. Not thread-safe.
class RedisMembership {
 public:
  // Lets it in. Waits while the lease of a server of format 1, which shared with nobody, expires if that shows no sign
  // of life. FAILED_PRECONDITION: that one lives, or a newer normd has written the store.
  static absl::StatusOr<RedisMembership> Join(const RedisLocation& location, RedisClient* client);
  // What it did is forgotten soon, and not only after some time.
  void Leave(const RedisLocation& location, RedisClient* client) const;

  const std::string& id() const { return id_; }
  // What its journal says before its first change.
  const std::string& first_journal() const { return first_journal_; }
  // What is in "servers" of it, or, if that was said not long ago, nothing.
  std::string SignOfLife(const RedisLocation& location);

 private:
  // Writes what a store of format 1 did not have.
  absl::Status Upgrade(const RedisLocation& location, RedisClient* client) const;

  std::string id_;
  std::string first_journal_;
  // Who this is, for people.
  std::string holder_;
  absl::Time next_sign_ = absl::InfinitePast();
};

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_REDIS_REDIS_MEMBERSHIP_H_
