#ifndef NORMD_SERVER_STORE_REDIS_REDIS_LEASE_H_
#define NORMD_SERVER_STORE_REDIS_REDIS_LEASE_H_

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/store/redis/redis_client.h"
#include "server/store/redis/redis_keys.h"
#include "server/store/redis/redis_location.h"

namespace normd::store {

// That this server, and no other, writes a store. A thread renews it, with a connection of its own. What is lost after
// an outage and taken by another stays lost: every write says whose it is, and Redis refuses it. The destructor gives
// the lease back, or leaves it to expire.
class RedisLease {
 public:
  // Waits while the lease of a server that shows no sign of life expires. FAILED_PRECONDITION: a server holds it, which
  // is named, or a newer normd has written the store.
  static absl::StatusOr<std::unique_ptr<RedisLease>> Acquire(const RedisLocation& location);
  ~RedisLease();
  RedisLease(const RedisLease&) = delete;
  RedisLease& operator=(const RedisLease&) = delete;

  // What every write has to show. Thread-safe.
  const std::string& token() const { return token_; }
  // FAILED_PRECONDITION: another server, which is named, has the store. With anybody's client.
  absl::Status Renew(RedisClient* client) const;

 private:
  explicit RedisLease(const RedisLocation& location);
  void Run();

  const RedisLocation location_;
  const RedisKeys keys_;
  // Who this is, for people.
  std::string holder_;
  std::string token_;
  // Of the thread, once it runs.
  RedisClient client_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_REDIS_REDIS_LEASE_H_
