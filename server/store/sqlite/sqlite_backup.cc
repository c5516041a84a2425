#include "server/store/sqlite/sqlite_backup.h"

#include <sqlite3.h>

#include <filesystem>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace normd::store {
namespace {

// 4 MB: others wait for the store no longer than for a large transaction.
constexpr int kPagesAtATime = 1024;

class SqliteBackup final : public BackupCopy {
 public:
  SqliteBackup(std::unique_ptr<Database> target, sqlite3_backup* backup, const char* finish)
      : target_(std::move(target)), finish_(finish), backup_(backup) {}

  absl::StatusOr<bool> Step() override {
    const int code = sqlite3_backup_step(backup_.get(), kPagesAtATime);
    if (code == SQLITE_OK) return false;
    if (code == SQLITE_DONE) {
      backup_.reset();
      if (absl::Status status = target_->Exec(finish_); !status.ok()) return status;
      return true;
    }
    const std::string text = absl::StrCat("backup to ", target_->path(), ": ", sqlite3_errstr(code));
    return code == SQLITE_FULL ? absl::ResourceExhaustedError(text) : absl::UnavailableError(text);
  }

 private:
  struct Finish {
    void operator()(sqlite3_backup* backup) const { sqlite3_backup_finish(backup); }
  };

  const std::unique_ptr<Database> target_;
  const char* const finish_;
  std::unique_ptr<sqlite3_backup, Finish> backup_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<BackupCopy>> StartSqliteBackup(Database* source, const std::string& path,
                                                              const char* finish) {
  if (std::error_code ignored; std::filesystem::exists(path, ignored)) {
    return absl::AlreadyExistsError(absl::StrCat("backup: ", path, " exists already"));
  }
  absl::StatusOr<std::unique_ptr<Database>> target = Database::Open(path, nullptr);
  if (!target.ok()) return target.status();
  sqlite3_backup* const backup = sqlite3_backup_init((*target)->handle(), "main", source->handle(), "main");
  if (backup == nullptr) {
    return absl::UnavailableError(absl::StrCat("backup to ", path, ": ", sqlite3_errmsg((*target)->handle())));
  }
  return std::make_unique<SqliteBackup>(*std::move(target), backup, finish);
}

}  // namespace normd::store
