#ifndef NORMD_SERVER_STORE_SQLITE_SNAPSHOT_TABLES_H_
#define NORMD_SERVER_STORE_SQLITE_SNAPSHOT_TABLES_H_

#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/store/sqlite/database.h"
#include "server/store/state_store.h"

namespace normd::store {

// Named snapshots in a database: one row for each, and one for each layer in it, whole. Not thread-safe; goes before
// its database.
class SnapshotTables {
 public:
  // Part of the schema (sqlite_store.cc).
  static constexpr const char* kSchema = R"sql(
    CREATE TABLE snapshots (name TEXT PRIMARY KEY, bytes BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE snapshot_layers (
      snapshot TEXT NOT NULL, name TEXT NOT NULL, bytes BLOB NOT NULL, PRIMARY KEY (snapshot, name)) WITHOUT ROWID;
  )sql";

  // After the schema is made.
  absl::Status Prepare(Database* database);

  // Within a transaction of the caller's.
  absl::Status Put(const NamedSnapshot& snapshot);
  absl::Status Remove(const std::string& name);

  // As StateStore has them.
  absl::StatusOr<std::vector<SnapshotInfo>> List();
  absl::Status Read(const std::string& name, absl::FunctionRef<absl::Status(StateStore::SnapshotPtr)> layer);

 private:
  Statement put_;
  Statement put_layer_;
  Statement remove_;
  Statement remove_layers_;
  Statement list_;
  Statement find_;
  Statement read_;
};

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_SQLITE_SNAPSHOT_TABLES_H_
