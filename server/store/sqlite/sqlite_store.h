#ifndef NORMD_SERVER_STORE_SQLITE_SQLITE_STORE_H_
#define NORMD_SERVER_STORE_SQLITE_SQLITE_STORE_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/store/durability.h"
#include "server/store/sqlite/database.h"
#include "server/store/sqlite/log_flusher.h"
#include "server/store/sqlite/row_changes.h"
#include "server/store/sqlite/snapshot_tables.h"
#include "server/store/sqlite/sqlite_backup.h"
#include "server/store/sqlite/step_journal.h"
#include "server/store/sqlite/step_tables.h"
#include "server/store/state_store.h"

namespace normd::store {

struct SqliteOptions {
  // Of the database. Beside it: the write-ahead log, PATH-wal, and the journal of steps, PATH-steps.
  std::string path;
  Durability durability = Durability::kProcess;
  // Of kPeriodic.
  absl::Duration sync_interval = absl::Seconds(1);
  // Null: the system's own. Tests inject faults with theirs.
  const char* vfs = nullptr;
};

// Keeps the layers in one SQLite file with a write-ahead log, and with Durability::kProcess the newest steps in a
// journal before it. Not thread-safe.
class SqliteStore final : public StateStore {
 public:
  // Opens the file, or makes it in a folder that exists. FAILED_PRECONDITION: another process uses it, it holds
  // something else, or a newer normd has written it. DATA_LOSS: it is damaged; nothing is changed then.
  static absl::StatusOr<std::unique_ptr<SqliteStore>> Open(const SqliteOptions& options);
  // Leaves the database alone with all that was written, if the disk takes it, and the journal as it is otherwise.
  ~SqliteStore() override;

  // DATA_LOSS also for a layer whose content hash is not that of its state, and for a damaged journal.
  absl::Status Load(absl::FunctionRef<absl::Status(SnapshotPtr)> layer,
                    absl::FunctionRef<absl::Status(RequestRecord)> request) override;
  absl::Status Write(absl::Span<const Update> updates) override;
  absl::StatusOr<std::vector<GoneLayer>> ListGone() override;
  absl::StatusOr<std::vector<SnapshotInfo>> ListSnapshots() override { return snapshots_.List(); }
  absl::Status ReadSnapshot(const std::string& name, absl::FunctionRef<absl::Status(SnapshotPtr)> layer) override {
    return snapshots_.Read(name, layer);
  }
  absl::StatusOr<std::unique_ptr<BackupCopy>> StartBackup(const std::string& path) override;
  bool waits_for_disk() const override { return options_.durability == Durability::kPower; }

 private:
  SqliteStore(const SqliteOptions& options, std::unique_ptr<Database> database)
      : options_(options), database_(std::move(database)) {}

  absl::Status PrepareSchema();
  absl::Status PrepareStatements();
  absl::Status PrepareLog();
  // What is in the tables.
  absl::Status LoadTables(absl::FunctionRef<absl::Status(SnapshotPtr)> layer,
                          absl::FunctionRef<absl::Status(RequestRecord)> request);
  // Brings what the journal holds into the tables and carries out `change`, or neither, and begins the journal anew
  // with this epoch.
  absl::Status Transact(int64_t epoch, absl::FunctionRef<absl::Status()> change);
  // Whether all of these are new versions of layers that are there, with the same settings, and requests.
  bool AreSteps(absl::Span<const Update> updates) const;
  // What such an update changes, which is also a part of all others.
  absl::Status AddStep(const Update& update, RowChanges* changes) const;
  // Within a transaction.
  absl::Status Apply(const Update& update);
  absl::Status PutLayer(const Update& update);
  absl::Status Remove(const GoneLayer& gone);
  absl::Status Forget(const std::string& uid);
  // After a commit: sees to it that the log comes to the disk, and that it does not grow for ever.
  void TendLog();
  // A row for a new layer, which it has for good if the running transaction ends well.
  int64_t TakeRow(const std::string& uid);
  // The row of a layer. INTERNAL: there is none.
  absl::StatusOr<int64_t> RowOf(const std::string& uid) const;

  const SqliteOptions options_;
  const std::unique_ptr<Database> database_;
  Statement begin_;
  Statement commit_;
  Statement insert_layer_;
  Statement update_layer_;
  Statement delete_layer_;
  Statement insert_gone_;
  Statement delete_gone_;
  Statement set_epoch_;
  StepTables steps_;
  SnapshotTables snapshots_;
  // Null until there is something for it.
  std::unique_ptr<StepJournal> journal_;
  // Of the Write that runs.
  RowChanges changes_;
  // Rows by uid, also of layers that are gone and whose requests are kept.
  absl::flat_hash_map<std::string, int64_t> rows_;
  absl::flat_hash_set<std::string> gone_;
  // Of forgotten layers, to be used again before next_row_ is: their number is bounded (row_changes.h).
  std::vector<int64_t> free_rows_;
  int64_t next_row_ = 1;
  // Uids of the layers that the running transaction has put first.
  std::vector<std::string> added_;
  // In the log, after the last commit.
  int log_pages_ = 0;
  // Number of the flush that the next checkpoint waits for.
  std::optional<int64_t> awaited_flush_;
  // Null with kPower.
  std::unique_ptr<LogFlusher> flusher_;
};

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_SQLITE_SQLITE_STORE_H_
