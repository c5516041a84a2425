#ifndef NORMD_SERVER_STORE_SQLITE_SQLITE_BACKUP_H_
#define NORMD_SERVER_STORE_SQLITE_SQLITE_BACKUP_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/store/sqlite/database.h"
#include "server/store/state_store.h"

namespace normd::store {

// Copies `source` into a new file at `path` with SQLite's online backup. What this process writes to the source
// meanwhile goes into the copy as well. In the end `finish`, a statement of SQL, is carried out in the copy.
// ALREADY_EXISTS: there is something at `path`. The copy goes before the source.
absl::StatusOr<std::unique_ptr<BackupCopy>> StartSqliteBackup(Database* source, const std::string& path,
                                                              const char* finish);

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_SQLITE_SQLITE_BACKUP_H_
