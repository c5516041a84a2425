#include "server/store/open_store.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/store/memory_store.h"
#include "server/store/redis/redis_location.h"
#include "server/store/redis/redis_store.h"
#include "server/store/sqlite/sqlite_store.h"

namespace normd::store {
namespace {

constexpr absl::string_view kSqlite = "sqlite:";

// Of a server that was killed.
void RemoveLeftovers(const std::filesystem::path& prefix) {
  std::error_code error;
  const std::string name = prefix.filename().string();
  const std::filesystem::path folder = prefix.parent_path();
  for (const auto& entry : std::filesystem::directory_iterator(folder.empty() ? "." : folder, error)) {
    if (entry.path().filename().string().starts_with(name)) std::filesystem::remove_all(entry.path(), error);
  }
}

}  // namespace

absl::Status CheckLocation(const std::string& location) {
  if (IsRedisLocation(location)) return ParseRedisLocation(location).status();
  absl::string_view path = location;
  if (location == "memory" || (absl::ConsumePrefix(&path, kSqlite) && !path.empty())) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("store '", WithoutPassword(location), "', want memory, sqlite:PATH, or ", kRedisForms));
}

std::string LocationWithoutPassword(const std::string& location) { return WithoutPassword(location); }

absl::StatusOr<std::unique_ptr<StateStore>> OpenStore(const StoreOptions& options) {
  if (absl::Status status = CheckLocation(options.location); !status.ok()) return status;
  if (options.location == "memory") return std::make_unique<MemoryStore>();
  if (IsRedisLocation(options.location)) {
    absl::StatusOr<RedisLocation> redis = ParseRedisLocation(options.location);
    if (!redis.ok()) return redis.status();
    if (!options.password.empty()) redis->password = options.password;
    absl::StatusOr<std::unique_ptr<RedisStore>> store = RedisStore::Open(*redis, options.warn);
    if (!store.ok()) return store.status();
    return *std::move(store);
  }
  SqliteOptions sqlite;
  sqlite.path = options.location.substr(kSqlite.size());
  sqlite.durability = options.durability;
  sqlite.sync_interval = options.sync_interval;
  const std::filesystem::path folder = std::filesystem::path(sqlite.path).parent_path();
  std::error_code error;
  if (!folder.empty()) std::filesystem::create_directories(folder, error);
  if (error) {
    return absl::UnavailableError(
        absl::StrCat("state store ", sqlite.path, ": cannot make ", folder.string(), ": ", error.message()));
  }
  absl::StatusOr<std::unique_ptr<SqliteStore>> store = SqliteStore::Open(sqlite);
  if (!store.ok()) return store.status();
  RemoveLeftovers(ScratchPrefix(options));
  return *std::move(store);
}

std::string ScratchPrefix(const StoreOptions& options) {
  std::error_code error;
  if (!absl::StartsWith(options.location, kSqlite))
    return std::filesystem::temp_directory_path(error) / "normd-backup-";
  const std::filesystem::path path = options.location.substr(kSqlite.size());
  return path.parent_path() / absl::StrCat(".", path.filename().string(), "-backup-");
}

absl::StatusOr<std::unique_ptr<StateStore>> OpenBackup(const std::string& path) {
  return OpenStore({.location = absl::StrCat(kSqlite, path)});
}

}  // namespace normd::store
