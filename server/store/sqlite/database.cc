#include "server/store/sqlite/database.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace normd::store {
namespace {

// SQLite's verdict as a status.
absl::Status ToStatus(sqlite3* database, int code) {
  const char* file = database != nullptr ? sqlite3_db_filename(database, "main") : nullptr;
  const char* message = database != nullptr ? sqlite3_errmsg(database) : sqlite3_errstr(code);
  const std::string text =
      absl::StrCat("state store ", file != nullptr ? file : "", ": ", message, " (SQLite error ", code, ")");
  switch (code & 0xff) {
    case SQLITE_FULL:
    case SQLITE_NOMEM:
    case SQLITE_TOOBIG:
      return absl::ResourceExhaustedError(text);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(text);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return absl::FailedPreconditionError(absl::StrCat(text, ": another process uses it"));
    case SQLITE_CONSTRAINT:
    case SQLITE_MISUSE:
    case SQLITE_RANGE:
      return absl::InternalError(text);
    default:
      return absl::UnavailableError(text);
  }
}

}  // namespace

Statement& Statement::Bind(int index, int64_t value) {
  sqlite3_bind_int64(statement_.get(), index + 1, value);
  return *this;
}

// An empty view may hold no pointer, which SQLite would take for NULL.
Statement& Statement::BindText(int index, absl::string_view text) {
  sqlite3_bind_text64(statement_.get(), index + 1, text.empty() ? "" : text.data(), text.size(), SQLITE_STATIC,
                      SQLITE_UTF8);
  return *this;
}

Statement& Statement::BindBlob(int index, absl::string_view bytes) {
  sqlite3_bind_blob64(statement_.get(), index + 1, bytes.empty() ? "" : bytes.data(), bytes.size(), SQLITE_STATIC);
  return *this;
}

absl::StatusOr<bool> Statement::Step() {
  const int code = sqlite3_step(statement_.get());
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  return ToStatus(database_, sqlite3_extended_errcode(database_));
}

absl::string_view Statement::Bytes(int column) const {
  const void* bytes = sqlite3_column_blob(statement_.get(), column);
  return {static_cast<const char*>(bytes), static_cast<std::size_t>(sqlite3_column_bytes(statement_.get(), column))};
}

void Statement::Reset() {
  sqlite3_reset(statement_.get());
  sqlite3_clear_bindings(statement_.get());
}

absl::Status Statement::Run() {
  absl::StatusOr<bool> row = Step();
  Reset();
  return row.status();
}

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::string& path, const char* vfs) {
  std::unique_ptr<Database> database(new Database(path));
  sqlite3* handle = nullptr;
  const int code =
      sqlite3_open_v2(path.c_str(), &handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, vfs);
  database->handle_.reset(handle);
  if (code != SQLITE_OK) return ToStatus(handle, handle != nullptr ? sqlite3_extended_errcode(handle) : code);
  // What SQLite falls back to without a word.
  if (sqlite3_db_readonly(handle, "main") == 1) {
    return absl::FailedPreconditionError(absl::StrCat("state store ", path, ": the file is read-only"));
  }
  // Held until the end. Also means that no other file is needed for the WAL's index.
  if (absl::Status status = database->Exec("PRAGMA locking_mode = EXCLUSIVE"); !status.ok()) return status;
  return database;
}

absl::Status Database::Exec(const char* sql) {
  const int code = sqlite3_exec(handle_.get(), sql, nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : ToStatus(handle_.get(), sqlite3_extended_errcode(handle_.get()));
}

absl::StatusOr<Statement> Database::Prepare(absl::string_view sql) {
  sqlite3_stmt* statement = nullptr;
  const int code = sqlite3_prepare_v3(handle_.get(), sql.data(), static_cast<int>(sql.size()),
                                      SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
  if (code != SQLITE_OK) return ToStatus(handle_.get(), sqlite3_extended_errcode(handle_.get()));
  return Statement(handle_.get(), statement);
}

absl::Status Database::PrepareAll(std::initializer_list<std::pair<Statement*, absl::string_view>> statements) {
  for (const auto& [statement, sql] : statements) {
    absl::StatusOr<Statement> prepared = Prepare(sql);
    if (!prepared.ok()) return prepared.status();
    *statement = *std::move(prepared);
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> Database::QueryInt(absl::string_view sql) {
  absl::StatusOr<Statement> statement = Prepare(sql);
  if (!statement.ok()) return statement.status();
  absl::StatusOr<bool> row = statement->Step();
  if (!row.ok()) return row.status();
  return *row ? statement->Int(0) : 0;
}

}  // namespace normd::store
