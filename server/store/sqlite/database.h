#ifndef NORMD_SERVER_STORE_SQLITE_DATABASE_H_
#define NORMD_SERVER_STORE_SQLITE_DATABASE_H_

#include <sqlite3.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace normd::store {

// A prepared statement. Parameters and columns are counted from 0. Text and blobs are borrowed until Run or Reset. Not
// thread-safe; goes before its database.
class Statement {
 public:
  Statement() = default;
  Statement(sqlite3* database, sqlite3_stmt* statement) : database_(database), statement_(statement) {}

  Statement& Bind(int index, int64_t value);
  Statement& BindText(int index, absl::string_view text);
  Statement& BindBlob(int index, absl::string_view bytes);

  // To the next row; false: there is none.
  absl::StatusOr<bool> Step();
  int64_t Int(int column) const { return sqlite3_column_int64(statement_.get(), column); }
  // Text or blob, good until the next Step or Reset.
  absl::string_view Bytes(int column) const;
  std::string Text(int column) const { return std::string(Bytes(column)); }
  void Reset();

  // A statement without rows, from its parameters to its end.
  absl::Status Run();

 private:
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
  };

  sqlite3* database_ = nullptr;
  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
};

// A SQLite database that only this process may use while it is open. Statuses name the file. Not thread-safe.
class Database {
 public:
  // Opens the file, or makes it. `vfs`: null for the system's own. FAILED_PRECONDITION: another process has it open, or
  // it is read-only. DATA_LOSS: it is no database, or damaged.
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::string& path, const char* vfs);

  // Of every statement and every Exec: UNAVAILABLE, RESOURCE_EXHAUSTED (the disk is full), DATA_LOSS.
  absl::Status Exec(const char* sql);
  absl::StatusOr<Statement> Prepare(absl::string_view sql);
  // Each statement from its text.
  absl::Status PrepareAll(std::initializer_list<std::pair<Statement*, absl::string_view>> statements);
  // The first column of the first row.
  absl::StatusOr<int64_t> QueryInt(absl::string_view sql);

  sqlite3* handle() const { return handle_.get(); }
  const std::string& path() const { return path_; }

 private:
  struct Close {
    void operator()(sqlite3* database) const { sqlite3_close_v2(database); }
  };

  explicit Database(std::string path) : path_(std::move(path)) {}

  const std::string path_;
  std::unique_ptr<sqlite3, Close> handle_;
};

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_SQLITE_DATABASE_H_
