#ifndef NORMD_SERVER_STORE_SQLITE_STEP_TABLES_H_
#define NORMD_SERVER_STORE_SQLITE_STEP_TABLES_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/store/sqlite/database.h"
#include "server/store/sqlite/row_changes.h"

namespace normd::store {

// The tables that training steps change. Not thread-safe; goes before its database.
class StepTables {
 public:
  // Part of the schema (sqlite_store.cc).
  static constexpr const char* kSchema = R"sql(
    CREATE TABLE statistics (layer_id INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
    CREATE TABLE parameters (layer_id INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
    CREATE TABLE contributors (
      layer_id INTEGER NOT NULL, name BLOB NOT NULL, sequence INTEGER NOT NULL, checksum INTEGER NOT NULL,
      PRIMARY KEY (layer_id, name)) WITHOUT ROWID;
    CREATE TABLE requests (key INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
  )sql";

  // After the schema is made.
  absl::Status Prepare(Database* database);

  // Within a transaction of the caller's. `changes` are bytes of RowChanges, carried out as if one after the other;
  // what a later one overwrites is not written.
  absl::Status Apply(absl::Span<const absl::string_view> changes);
  // Of the layer in this row: all but its requests, or its contributors, or its requests.
  absl::Status RemoveLayer(int64_t row);
  absl::Status RemoveContributors(int64_t row);
  absl::Status RemoveRequests(int64_t row);

 private:
  absl::Status ApplyOne(const RowChange& change);

  Statement put_statistics_;
  Statement put_parameters_;
  Statement put_contributor_;
  Statement put_request_;
  Statement delete_statistics_;
  Statement delete_parameters_;
  Statement delete_contributors_;
  Statement delete_requests_;
};

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_SQLITE_STEP_TABLES_H_
