#include "server/store/sqlite/sqlite_store.h"

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "server/layer/layer_error.h"
#include "server/store/record_format.h"

namespace normd::store {
namespace {

// "norm": marks the file as ours.
constexpr int64_t kApplicationId = 0x6e6f726d;

// The schema, as the steps that lead to it: step n takes a file of version n to n + 1. A released step never changes.
// A layer stands in three tables by what changes it: settings, training steps, and optimizers' steps. A training step
// should change one page.
const std::string kMigrations[] = {absl::StrCat(R"sql(
  CREATE TABLE layers (
    id INTEGER PRIMARY KEY, uid TEXT NOT NULL UNIQUE, name TEXT NOT NULL UNIQUE, settings BLOB NOT NULL);
  CREATE TABLE gone_layers (id INTEGER PRIMARY KEY, uid TEXT NOT NULL UNIQUE, bytes BLOB NOT NULL);
)sql",
                                                StepTables::kSchema, SnapshotTables::kSchema),
                                   // The epoch of the journal that holds what has changed since; 0: there is none.
                                   R"sql(
  CREATE TABLE journal (epoch INTEGER NOT NULL);
  INSERT INTO journal VALUES (0);
)sql"};
constexpr auto kSchemaVersion = static_cast<int64_t>(std::size(kMigrations));

// Of the requests that concern no layer: rows start at 1.
constexpr int64_t kNoLayer = 0;

// 4 MB of log are copied into the database at once. SQLite finds a page's place in the index of the log behind those of
// the page's older versions, one by one: the longer the log, the dearer a commit.
constexpr int kCheckpointPages = 1024;

constexpr absl::string_view kSelectLayers =
    "SELECT id, uid, name, settings, statistics.bytes, parameters.bytes FROM layers "
    "JOIN statistics ON statistics.layer_id = id "
    "JOIN parameters ON parameters.layer_id = id ORDER BY name";

// Of all layers, by row.
absl::StatusOr<absl::flat_hash_map<int64_t, layer::Contributors>> ReadContributors(Database* database) {
  absl::StatusOr<Statement> rows =
      database->Prepare("SELECT layer_id, name, sequence, checksum FROM contributors ORDER BY layer_id, name");
  if (!rows.ok()) return rows.status();
  absl::flat_hash_map<int64_t, layer::Contributors> result;
  std::vector<std::pair<std::string, int64_t>> entries;
  int64_t layer = kNoLayer;
  const auto finish = [&] {
    if (!entries.empty()) result[layer] = layer::Contributors::FromSorted(std::exchange(entries, {}));
  };
  while (true) {
    absl::StatusOr<bool> row = rows->Step();
    if (!row.ok()) return row.status();
    if (!*row || rows->Int(0) != layer) finish();
    if (!*row) return result;
    layer = rows->Int(0);
    if (ContributorChecksum(rows->Bytes(1), rows->Int(2)) != rows->Int(3)) {
      return absl::DataLossError("the stored record of a contributor is damaged");
    }
    entries.emplace_back(rows->Text(1), rows->Int(2));
  }
}

// Of a row of kSelectLayers.
absl::StatusOr<StateStore::SnapshotPtr> ReadLayer(const Statement& row, layer::Contributors contributors) {
  auto snapshot = std::make_shared<layer::LayerSnapshot>();
  absl::Status status = DecodeSettings(row.Bytes(3), snapshot.get());
  if (status.ok()) status = DecodeVersion(row.Bytes(4), snapshot.get());
  if (status.ok()) status = DecodeParameters(row.Bytes(5), snapshot.get());
  if (status.ok() && (snapshot->uid != row.Bytes(1) || snapshot->name != row.Bytes(2))) {
    status = absl::DataLossError("the stored record of settings is another layer's");
  }
  if (!status.ok()) return layer::ForLayer(row.Text(2), status);
  snapshot->contributors = std::make_shared<layer::Contributors>(std::move(contributors));
  status = CheckLayer(*snapshot);
  if (!status.ok()) return status;
  return snapshot;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SqliteStore>> SqliteStore::Open(const SqliteOptions& options) {
  absl::StatusOr<std::unique_ptr<Database>> database = Database::Open(options.path, options.vfs);
  if (!database.ok()) return database.status();
  std::unique_ptr<SqliteStore> store(new SqliteStore(options, *std::move(database)));
  if (absl::Status status = store->PrepareSchema(); !status.ok()) return status;
  if (absl::Status status = store->PrepareStatements(); !status.ok()) return status;
  if (absl::Status status = store->PrepareLog(); !status.ok()) return status;
  return store;
}

absl::Status SqliteStore::PrepareSchema() {
  absl::StatusOr<int64_t> application = database_->QueryInt("PRAGMA application_id");
  if (!application.ok()) return application.status();
  absl::StatusOr<int64_t> version = database_->QueryInt("PRAGMA user_version");
  if (!version.ok()) return version.status();
  absl::StatusOr<int64_t> tables = database_->QueryInt("SELECT count(*) FROM sqlite_schema");
  if (!tables.ok()) return tables.status();
  const bool empty = *tables == 0 && *application == 0 && *version == 0;
  if (!empty && *application != kApplicationId) {
    return absl::FailedPreconditionError(
        absl::StrCat("state store ", options_.path, ": this database is not one of normd's"));
  }
  if (*version > kSchemaVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("state store ", options_.path, ": it has schema version ", *version,
                     " and was written by a newer normd; this one reads versions up to ", kSchemaVersion));
  }
  if (absl::Status status = database_->Exec("PRAGMA journal_mode = WAL"); !status.ok()) return status;
  const bool full = options_.durability == Durability::kPower;
  absl::Status status = database_->Exec(full ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL");
  if (!status.ok() || *version == kSchemaVersion) return status;

  std::string script = absl::StrCat("BEGIN IMMEDIATE; PRAGMA application_id = ", kApplicationId, ";");
  for (int64_t v = *version; v < kSchemaVersion; ++v) absl::StrAppend(&script, kMigrations[v]);
  absl::StrAppend(&script, "PRAGMA user_version = ", kSchemaVersion, "; COMMIT");
  status = database_->Exec(script.c_str());
  if (!status.ok()) database_->Exec("ROLLBACK").IgnoreError();
  return status;
}

absl::Status SqliteStore::PrepareStatements() {
  absl::Status status = database_->PrepareAll({
      {&begin_, "BEGIN IMMEDIATE"},
      {&commit_, "COMMIT"},
      {&insert_layer_, "INSERT INTO layers (id, uid, name, settings) VALUES (?, ?, ?, ?)"},
      {&update_layer_, "UPDATE layers SET settings = ? WHERE id = ?"},
      {&delete_layer_, "DELETE FROM layers WHERE id = ?"},
      {&insert_gone_, "INSERT INTO gone_layers (id, uid, bytes) VALUES (?, ?, ?)"},
      {&delete_gone_, "DELETE FROM gone_layers WHERE id = ?"},
      {&set_epoch_, "UPDATE journal SET epoch = ?"},
  });
  if (status.ok()) status = steps_.Prepare(database_.get());
  return status.ok() ? snapshots_.Prepare(database_.get()) : status;
}

absl::Status SqliteStore::PrepareLog() {
  // Takes the place of SQLite's own checkpoints.
  sqlite3_wal_hook(
      database_->handle(),
      [](void* log_pages, sqlite3*, const char*, int pages) {
        *static_cast<int*>(log_pages) = pages;
        return SQLITE_OK;
      },
      &log_pages_);
  if (options_.durability == Durability::kPower) return absl::OkStatus();
  absl::StatusOr<std::unique_ptr<LogFlusher>> flusher = LogFlusher::Open(options_.path + "-wal");
  if (!flusher.ok()) return flusher.status();
  flusher_ = *std::move(flusher);
  return absl::OkStatus();
}

SqliteStore::~SqliteStore() {
  if (journal_ == nullptr || !Transact(0, [] { return absl::OkStatus(); }).ok()) return;
  // Also brings that to the disk: only then the journal may go.
  const int code = sqlite3_wal_checkpoint_v2(database_->handle(), nullptr, SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
  if (code == SQLITE_OK) journal_->Remove();
}

absl::Status SqliteStore::Load(absl::FunctionRef<absl::Status(SnapshotPtr)> layer,
                               absl::FunctionRef<absl::Status(RequestRecord)> request) {
  const bool recovers = journal_ == nullptr;
  if (recovers) {
    absl::StatusOr<int64_t> epoch = database_->QueryInt("SELECT epoch FROM journal");
    if (!epoch.ok()) return epoch.status();
    if (*epoch == 0) return LoadTables(layer, request);
    absl::StatusOr<std::unique_ptr<StepJournal>> journal = StepJournal::Recover(options_.path, options_.vfs, *epoch);
    if (!journal.ok()) return journal.status();
    journal_ = *std::move(journal);
  }
  bool loaded = false;
  absl::Status status = Transact(0, [&] {
    absl::Status tables = LoadTables(layer, request);
    loaded = tables.ok();
    return tables;
  });
  // If the disk is full all has been read, and the journal goes on to hold what the tables do not.
  if (loaded) return absl::OkStatus();
  // Of a database that may be damaged nothing is changed, by the destructor neither.
  if (recovers) journal_.reset();
  return status;
}

absl::Status SqliteStore::LoadTables(absl::FunctionRef<absl::Status(SnapshotPtr)> layer,
                                     absl::FunctionRef<absl::Status(RequestRecord)> request) {
  absl::StatusOr<absl::flat_hash_map<int64_t, layer::Contributors>> contributors = ReadContributors(database_.get());
  if (!contributors.ok()) return contributors.status();
  absl::flat_hash_map<int64_t, std::string> uids;
  absl::StatusOr<Statement> layers = database_->Prepare(kSelectLayers);
  if (!layers.ok()) return layers.status();
  while (true) {
    absl::StatusOr<bool> row = layers->Step();
    if (!row.ok()) return row.status();
    if (!*row) break;
    absl::StatusOr<SnapshotPtr> snapshot = ReadLayer(*layers, std::move((*contributors)[layers->Int(0)]));
    if (!snapshot.ok()) return snapshot.status();
    rows_[(*snapshot)->uid] = layers->Int(0);
    uids[layers->Int(0)] = (*snapshot)->uid;
    if (absl::Status status = layer(*std::move(snapshot)); !status.ok()) return status;
  }
  // A row without its parts would not show in the join.
  absl::StatusOr<int64_t> stored = database_->QueryInt("SELECT count(*) FROM layers");
  if (!stored.ok()) return stored.status();
  if (*stored != static_cast<int64_t>(rows_.size())) {
    return absl::DataLossError(absl::StrCat("state store ", options_.path, ": ", *stored,
                                            " layers are stored, but only ", rows_.size(),
                                            " of them with their state"));
  }

  absl::StatusOr<Statement> gone = database_->Prepare("SELECT id, uid FROM gone_layers");
  if (!gone.ok()) return gone.status();
  while (true) {
    absl::StatusOr<bool> row = gone->Step();
    if (!row.ok()) return row.status();
    if (!*row) break;
    rows_[gone->Text(1)] = gone->Int(0);
    uids[gone->Int(0)] = gone->Text(1);
    gone_.insert(gone->Text(1));
  }
  for (const auto& [uid, row] : rows_) next_row_ = std::max(next_row_, row + 1);

  absl::StatusOr<Statement> requests = database_->Prepare("SELECT key, bytes FROM requests ORDER BY key");
  if (!requests.ok()) return requests.status();
  while (true) {
    absl::StatusOr<bool> more = requests->Step();
    if (!more.ok()) return more.status();
    if (!*more) return absl::OkStatus();
    absl::StatusOr<RequestRecord> record = DecodeRequest(requests->Bytes(1));
    if (!record.ok()) return record.status();
    const int64_t row = RowOfRequest(requests->Int(0));
    const auto uid = uids.find(row);
    if ((uid == uids.end() && row != kNoLayer) || RequestKey(row, record->sequence) != requests->Int(0)) {
      return absl::DataLossError(absl::StrCat("state store ", options_.path, ": the record of request_id '",
                                              absl::CHexEscape(record->request_id), "' stands in the wrong place"));
    }
    if (row != kNoLayer) record->layer_uid = uid->second;
    if (absl::Status status = request(*std::move(record)); !status.ok()) return status;
  }
}

absl::StatusOr<std::vector<GoneLayer>> SqliteStore::ListGone() {
  absl::StatusOr<Statement> rows = database_->Prepare("SELECT bytes FROM gone_layers ORDER BY id");
  if (!rows.ok()) return rows.status();
  std::vector<GoneLayer> gone;
  while (true) {
    absl::StatusOr<bool> row = rows->Step();
    if (!row.ok()) return row.status();
    if (!*row) return gone;
    absl::StatusOr<GoneLayer> layer = DecodeGone(rows->Bytes(0));
    if (!layer.ok()) return layer.status();
    gone.push_back(*std::move(layer));
  }
}

absl::StatusOr<std::unique_ptr<BackupCopy>> SqliteStore::StartBackup(const std::string& path) {
  if (journal_ != nullptr) {
    absl::Status status = Transact(0, [] { return absl::OkStatus(); });
    if (!status.ok()) return status;
  }
  return StartSqliteBackup(database_.get(), path, "UPDATE journal SET epoch = 0");
}

absl::Status SqliteStore::Write(absl::Span<const Update> updates) {
  const bool steps = options_.durability == Durability::kProcess && AreSteps(updates);
  if (steps && journal_ != nullptr) {
    changes_.Clear();
    for (const Update& update : updates) {
      if (absl::Status status = AddStep(update, &changes_); !status.ok()) return status;
    }
    if (journal_->Accepts(changes_.bytes().size())) return journal_->Append(changes_.bytes());
  }
  if (steps && journal_ == nullptr) {
    absl::StatusOr<std::unique_ptr<StepJournal>> journal = StepJournal::Create(options_.path, options_.vfs);
    if (!journal.ok()) return journal.status();
    journal_ = *std::move(journal);
  }
  added_.clear();
  const int64_t epoch = options_.durability == Durability::kProcess ? StepJournal::NewEpoch() : 0;
  absl::Status status = Transact(epoch, [&] {
    for (const Update& update : updates) {
      if (absl::Status applied = Apply(update); !applied.ok()) return applied;
    }
    return absl::OkStatus();
  });
  if (!status.ok()) {
    for (const std::string& uid : added_) {
      free_rows_.push_back(rows_[uid]);
      rows_.erase(uid);
    }
    return status;
  }
  for (const Update& update : updates) {
    if (update.put != nullptr) gone_.erase(update.put->uid);
    if (update.remove.has_value()) gone_.insert(update.remove->uid);
    if (!update.forget.empty() && gone_.erase(update.forget) > 0) {
      free_rows_.push_back(rows_[update.forget]);
      rows_.erase(update.forget);
    }
  }
  TendLog();
  return absl::OkStatus();
}

absl::Status SqliteStore::Transact(int64_t epoch, absl::FunctionRef<absl::Status()> change) {
  absl::Status status = begin_.Run();
  if (!status.ok()) return status;
  if (journal_ != nullptr) status = steps_.Apply(journal_->Contents());
  if (status.ok()) status = change();
  if (status.ok() && journal_ != nullptr) status = set_epoch_.Bind(0, epoch).Run();
  if (status.ok()) status = commit_.Run();
  if (!status.ok()) {
    // Some errors have rolled it back already.
    if (sqlite3_get_autocommit(database_->handle()) == 0) database_->Exec("ROLLBACK").IgnoreError();
    return status;
  }
  if (journal_ != nullptr) journal_->Start(epoch);
  return absl::OkStatus();
}

bool SqliteStore::AreSteps(absl::Span<const Update> updates) const {
  return absl::c_all_of(updates, [this](const Update& update) {
    if (update.remove.has_value() || !update.forget.empty() || update.put_snapshot != nullptr ||
        !update.remove_snapshot.empty()) {
      return false;
    }
    return update.put == nullptr || (update.replaces != nullptr && ShareSettings(*update.replaces, *update.put) &&
                                     rows_.contains(update.put->uid) && !gone_.contains(update.put->uid));
  });
}

void SqliteStore::TendLog() {
  if (options_.durability == Durability::kPeriodic) flusher_->FlushWithin(options_.sync_interval);
  if (log_pages_ < kCheckpointPages) return;
  // A checkpoint syncs the log and copies it into the database, while everybody waits. So most of the log goes to the
  // disk first, while nobody does; if that cannot keep up, not.
  if (flusher_ != nullptr && log_pages_ < 2 * kCheckpointPages) {
    if (!awaited_flush_.has_value()) {
      awaited_flush_ = flusher_->num_flushes() + 1;
      flusher_->FlushWithin(absl::ZeroDuration());
    }
    if (flusher_->num_flushes() < *awaited_flush_) return;
  }
  awaited_flush_.reset();
  // If it fails, a later Write tries again: what was written is still as safe as before.
  sqlite3_wal_checkpoint_v2(database_->handle(), nullptr, SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
}

absl::Status SqliteStore::Apply(const Update& update) {
  if (update.put != nullptr) {
    if (absl::Status status = PutLayer(update); !status.ok()) return status;
  }
  if (update.remove.has_value()) {
    if (absl::Status status = Remove(*update.remove); !status.ok()) return status;
  }
  if (!update.forget.empty()) {
    if (absl::Status status = Forget(update.forget); !status.ok()) return status;
  }
  if (update.put_snapshot != nullptr) {
    if (absl::Status status = snapshots_.Put(*update.put_snapshot); !status.ok()) return status;
  }
  if (!update.remove_snapshot.empty()) {
    if (absl::Status status = snapshots_.Remove(update.remove_snapshot); !status.ok()) return status;
  }
  changes_.Clear();
  if (absl::Status status = AddStep(update, &changes_); !status.ok()) return status;
  return steps_.Apply({changes_.bytes()});
}

absl::Status SqliteStore::PutLayer(const Update& update) {
  const layer::LayerSnapshot& snapshot = *update.put;
  const auto found = rows_.find(snapshot.uid);
  const bool comes_back = found != rows_.end() && gone_.contains(snapshot.uid);
  if (found != rows_.end() && !comes_back) {
    if (update.replaces == nullptr) {
      if (absl::Status status = steps_.RemoveContributors(found->second); !status.ok()) return status;
    }
    if (update.replaces != nullptr && ShareSettings(*update.replaces, snapshot)) return absl::OkStatus();
    const std::string settings = EncodeSettings(snapshot);
    return update_layer_.BindBlob(0, settings).Bind(1, found->second).Run();
  }
  const int64_t row = comes_back ? found->second : TakeRow(snapshot.uid);
  if (comes_back) {
    if (absl::Status status = delete_gone_.Bind(0, row).Run(); !status.ok()) return status;
  }
  const std::string settings = EncodeSettings(snapshot);
  return insert_layer_.Bind(0, row).BindText(1, snapshot.uid).BindText(2, snapshot.name).BindBlob(3, settings).Run();
}

absl::Status SqliteStore::AddStep(const Update& update, RowChanges* changes) const {
  using Kind = RowChange::Kind;
  if (update.put != nullptr) {
    absl::StatusOr<int64_t> row = RowOf(update.put->uid);
    if (!row.ok()) return row.status();
    const layer::LayerSnapshot* const before = gone_.contains(update.put->uid) ? nullptr : update.replaces.get();
    changes->Add({Kind::kStatistics, *row, 0, EncodeVersion(*update.put)});
    if (before == nullptr || !ShareParameters(*before, *update.put)) {
      changes->Add({Kind::kParameters, *row, 0, EncodeParameters(*update.put)});
    }
    const auto add = [&](absl::string_view name, int64_t sequence) {
      changes->Add({Kind::kContributor, *row, sequence, name});
    };
    if (before == nullptr) {
      update.put->contributors->ForEach(add);
    } else if (before->contributors != update.put->contributors) {
      // None ever goes.
      update.put->contributors->ForEachChange(*before->contributors, add);
    }
  }
  if (!update.request.has_value()) return absl::OkStatus();
  const RequestRecord& request = *update.request;
  absl::StatusOr<int64_t> row = request.layer_uid.empty() ? kNoLayer : RowOf(request.layer_uid);
  if (!row.ok()) return row.status();
  if (update.forget_through > 0) {
    changes->Add({Kind::kForgetRequests, *row, RequestKey(*row, update.forget_through), ""});
  }
  changes->Add({Kind::kRequest, RequestKey(*row, request.sequence), 0, EncodeRequest(request)});
  return absl::OkStatus();
}

absl::Status SqliteStore::Remove(const GoneLayer& gone) {
  absl::StatusOr<int64_t> row = RowOf(gone.uid);
  if (!row.ok()) return row.status();
  absl::Status status = delete_layer_.Bind(0, *row).Run();
  if (status.ok()) status = steps_.RemoveLayer(*row);
  if (!status.ok()) return status;
  const std::string bytes = EncodeGone(gone);
  return insert_gone_.Bind(0, *row).BindText(1, gone.uid).BindBlob(2, bytes).Run();
}

absl::Status SqliteStore::Forget(const std::string& uid) {
  absl::StatusOr<int64_t> row = RowOf(uid);
  if (!row.ok()) return row.status();
  absl::Status status = delete_gone_.Bind(0, *row).Run();
  return status.ok() ? steps_.RemoveRequests(*row) : status;
}

int64_t SqliteStore::TakeRow(const std::string& uid) {
  int64_t row = next_row_;
  if (free_rows_.empty()) {
    ++next_row_;
  } else {
    row = free_rows_.back();
    free_rows_.pop_back();
  }
  rows_[uid] = row;
  added_.push_back(uid);
  return row;
}

absl::StatusOr<int64_t> SqliteStore::RowOf(const std::string& uid) const {
  const auto found = rows_.find(uid);
  if (found != rows_.end()) return found->second;
  return absl::InternalError(absl::StrCat("state store ", options_.path, ": there is no layer with uid ", uid));
}

}  // namespace normd::store
