#include "server/store/open_store.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/store/memory_store.h"
#include "server/store/sqlite/sqlite_store.h"

namespace normd::store {
namespace {

constexpr absl::string_view kSqlite = "sqlite:";

}  // namespace

absl::Status CheckLocation(const std::string& location) {
  absl::string_view path = location;
  if (location == "memory" || (absl::ConsumePrefix(&path, kSqlite) && !path.empty())) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("store '", location, "', want memory or sqlite:PATH"));
}

absl::StatusOr<std::unique_ptr<StateStore>> OpenStore(const StoreOptions& options) {
  if (absl::Status status = CheckLocation(options.location); !status.ok()) return status;
  if (options.location == "memory") return std::make_unique<MemoryStore>();
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
  return *std::move(store);
}

}  // namespace normd::store
