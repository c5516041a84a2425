#ifndef NORMD_SERVER_STORE_OPEN_STORE_H_
#define NORMD_SERVER_STORE_OPEN_STORE_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/store/durability.h"
#include "server/store/state_store.h"

namespace normd::store {

struct StoreOptions {
  // "memory", "sqlite:PATH", or a URL of Redis (redis/redis_location.h).
  std::string location = "memory";
  // Of sqlite.
  Durability durability = Durability::kProcess;
  absl::Duration sync_interval = absl::Seconds(1);
  // Of Redis, if it is not in the URL. Never shown.
  std::string password = {};
  // Is told what an operator should know while the store is open.
  std::function<void(const std::string&)> warn = [](const std::string&) {};
};

// INVALID_ARGUMENT: `location` is none of these.
absl::Status CheckLocation(const std::string& location);

// The location to be shown to people.
std::string LocationWithoutPassword(const std::string& location);

// What paths begin with of folders in which something may stand for a while: beside the store, whose next OpenStore
// removes those that were left behind, or where the system has room for such.
std::string ScratchPrefix(const StoreOptions& options);

// Opens a copy that StateStore::StartBackup has made, to be read. Statuses as the store's own.
absl::StatusOr<std::unique_ptr<StateStore>> OpenBackup(const std::string& path);

// Opens the store, and makes the folder of a file. Statuses also as the store's own.
absl::StatusOr<std::unique_ptr<StateStore>> OpenStore(const StoreOptions& options);

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_OPEN_STORE_H_
