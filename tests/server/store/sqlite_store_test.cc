#include "server/store/sqlite/sqlite_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/server/store/faulty_file_system.h"
#include "tests/server/store/store_data.h"
#include "tests/status_matchers.h"

namespace normd::store {
namespace {

using absl::StatusCode;
using ::testing::ElementsAre;
using tests::IsOk;
using tests::IsOkAndHolds;
using tests::Put;
using tests::Request;
using tests::SomeLayer;
using tests::StatusIs;

class SqliteStoreTest : public ::testing::Test {
 protected:
  SqliteStoreTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "normd_sqlite_XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    options_.path = folder_ + "/normd.db";
    tests::FaultyFileSystem::Register();
  }
  ~SqliteStoreTest() override {
    store_.reset();
    std::filesystem::remove_all(folder_);
  }

  void Open() {
    store_.reset();
    auto opened = SqliteStore::Open(options_);
    ASSERT_THAT(opened, IsOk());
    store_ = *std::move(opened);
  }

  // The names of the layers.
  absl::StatusOr<std::vector<std::string>> Names() { return Names(store_.get()); }
  static absl::StatusOr<std::vector<std::string>> Names(SqliteStore* store) {
    std::vector<std::string> names;
    absl::Status status = store->Load(
        [&](const StateStore::SnapshotPtr& layer) {
          names.push_back(layer->name);
          return absl::OkStatus();
        },
        [](const RequestRecord&) { return absl::OkStatus(); });
    if (!status.ok()) return status;
    return names;
  }

  // Runs SQL on the closed store; returns how many rows it changed.
  int Edit(const char* sql) {
    store_.reset();
    sqlite3* database = nullptr;
    EXPECT_EQ(sqlite3_open(options_.path.c_str(), &database), SQLITE_OK);
    char* error = nullptr;
    EXPECT_EQ(sqlite3_exec(database, sql, nullptr, nullptr, &error), SQLITE_OK) << (error != nullptr ? error : "");
    const int changes = sqlite3_changes(database);
    sqlite3_free(error);
    sqlite3_close(database);
    return changes;
  }

  std::string folder_;
  SqliteOptions options_;
  std::unique_ptr<SqliteStore> store_;
};

TEST_F(SqliteStoreTest, OnlyOneProcessMayUseAFile) {
  Open();
  ASSERT_THAT(store_->Write({Put(SomeLayer("a", 1))}), IsOk());
  EXPECT_THAT(SqliteStore::Open(options_), StatusIs(StatusCode::kFailedPrecondition, "another process uses it"));
}

TEST_F(SqliteStoreTest, RefusesANewerSchema) {
  Open();
  Edit("PRAGMA user_version = 99");
  EXPECT_THAT(SqliteStore::Open(options_),
              StatusIs(StatusCode::kFailedPrecondition, "schema version 99 and was written by a newer normd"));
}

TEST_F(SqliteStoreTest, RefusesWhatIsNotItsOwn) {
  Edit("CREATE TABLE theirs (x)");
  EXPECT_THAT(SqliteStore::Open(options_), StatusIs(StatusCode::kFailedPrecondition, "not one of normd's"));
  // And leaves it alone.
  Edit("INSERT INTO theirs VALUES (1)");
  options_.path = folder_ + "/text";
  std::ofstream(options_.path) << std::string(10'000, 'x');
  EXPECT_THAT(SqliteStore::Open(options_), StatusIs(StatusCode::kDataLoss, "not a database"));
  EXPECT_EQ(std::filesystem::file_size(options_.path), 10'000);
}

// Each byte of every kind of record, once.
TEST_F(SqliteStoreTest, NoticesAnyChangedByte) {
  Open();
  Update remove;
  remove.remove = GoneLayer{.uid = "uid-of-b",
                            .version = 42,
                            .contributors = SomeLayer("b", 1)->contributors,
                            .time = absl::FromUnixNanos(7)};
  Update snapshot;
  auto named = std::make_shared<NamedSnapshot>();
  named->info = {.name = "s", .layer = "", .prefix = "", .num_layers = 1, .create_time = absl::FromUnixNanos(8)};
  named->layers = {SomeLayer("c", 3, 1)};
  snapshot.put_snapshot = named;
  ASSERT_THAT(store_->Write({Put(SomeLayer("a", 1, 1)), Put(SomeLayer("b", 2, 1)), tests::Request("uid-of-a", 1, "r"),
                             tests::Request("", 1, "made"), remove, snapshot}),
              IsOk());
  const auto load = [&]() -> absl::Status {
    if (absl::Status status = Names().status(); !status.ok()) return status;
    if (absl::Status status = store_->ListGone().status(); !status.ok()) return status;
    if (absl::Status status = store_->ListSnapshots().status(); !status.ok()) return status;
    return store_->ReadSnapshot("s", [](const auto&) { return absl::OkStatus(); });
  };
  Open();
  ASSERT_THAT(load(), IsOk());
  store_.reset();
  const std::string good = folder_ + "/good.db";
  std::filesystem::copy_file(options_.path, good);
  const std::pair<const char*, const char*> columns[] = {
      {"layers", "settings"},   {"statistics", "bytes"}, {"parameters", "bytes"},      {"requests", "bytes"},
      {"gone_layers", "bytes"}, {"snapshots", "bytes"},  {"snapshot_layers", "bytes"}, {"contributors", "name"}};
  int changes = 0;
  for (const auto& [table, column] : columns) {
    for (int byte = 1; byte < 2000; byte += 3) {
      std::filesystem::copy_file(good, options_.path, std::filesystem::copy_options::overwrite_existing);
      // In one row, a byte and its neighbours; behind the end nothing.
      const std::string sql = absl::StrCat("UPDATE ", table, " SET ", column, " = CAST(substr(", column, ", 1, ",
                                           byte - 1, ") || CASE hex(substr(", column, ", ", byte,
                                           ", 1)) WHEN '40' THEN x'41' ELSE x'40' END || substr(", column, ", ",
                                           byte + 1, ") AS BLOB) WHERE length(CAST(", column, " AS BLOB)) >= ", byte,
                                           " AND ", column, " = (SELECT max(", column, ") FROM ", table, ")");
      if (Edit(sql.c_str()) == 0) break;
      Open();
      EXPECT_THAT(load(), StatusIs(StatusCode::kDataLoss)) << table << " byte " << byte;
      store_.reset();
      ++changes;
    }
  }
  EXPECT_GT(changes, 300);
}

TEST_F(SqliteStoreTest, NoticesRecordsInTheWrongPlace) {
  for (const char* sql :
       {"UPDATE statistics SET bytes = (SELECT bytes FROM statistics WHERE layer_id = 2) WHERE layer_id = 1",
        "UPDATE layers SET settings = (SELECT settings FROM layers WHERE id = 2) WHERE id = 1",
        "UPDATE layers SET name = 'z' WHERE id = 1", "UPDATE layers SET uid = 'z' WHERE id = 1",
        "UPDATE requests SET key = key + 1", "UPDATE requests SET key = key + (9 << 40)",
        "UPDATE contributors SET sequence = sequence + 1", "UPDATE statistics SET bytes = substr(bytes, 1, 32)",
        "UPDATE layers SET settings = x''", "UPDATE parameters SET bytes = bytes || x'00'", "DELETE FROM parameters"}) {
    SCOPED_TRACE(sql);
    Open();
    ASSERT_THAT(store_->Write({Put(SomeLayer("a", 1)), Put(SomeLayer("b", 2)), tests::Request("uid-of-a", 1, "r")}),
                IsOk());
    Edit(sql);
    Open();
    EXPECT_THAT(Names(), StatusIs(StatusCode::kDataLoss));
    store_.reset();
    std::filesystem::remove(options_.path);
  }
}

TEST_F(SqliteStoreTest, NoticesATruncatedFile) {
  Open();
  for (int i = 0; i < 40; ++i) ASSERT_THAT(store_->Write({Put(SomeLayer("a" + std::to_string(i), i))}), IsOk());
  store_.reset();
  std::filesystem::resize_file(options_.path, std::filesystem::file_size(options_.path) / 2);
  auto opened = SqliteStore::Open(options_);
  if (opened.ok()) {
    store_ = *std::move(opened);
    EXPECT_THAT(Names(), StatusIs(StatusCode::kDataLoss, "malformed"));
  } else {
    EXPECT_THAT(opened, StatusIs(StatusCode::kDataLoss, "malformed"));
  }
}

// A log that ends in the middle of a transaction, as after a loss of power.
TEST_F(SqliteStoreTest, ATornLogLosesWholeTransactionsFromItsEnd) {
  options_.durability = Durability::kPower;
  Open();
  ASSERT_THAT(Names(), IsOk());
  ASSERT_THAT(store_->Write({Put(SomeLayer("a", 1))}), IsOk());
  const std::string log = options_.path + "-wal";
  const auto after_first = std::filesystem::file_size(log);
  ASSERT_THAT(store_->Write({Put(SomeLayer("b", 1)), Request("uid-of-b", 1, "r")}), IsOk());
  const auto after_second = std::filesystem::file_size(log);
  ASSERT_GT(after_second, after_first);
  const std::string copy = folder_ + "/copy.db";
  for (const auto size : {after_second, after_second - 1, after_first + 100, after_first}) {
    std::filesystem::copy_file(options_.path, copy, std::filesystem::copy_options::overwrite_existing);
    std::filesystem::copy_file(log, copy + "-wal", std::filesystem::copy_options::overwrite_existing);
    std::filesystem::resize_file(copy + "-wal", size);
    auto opened = SqliteStore::Open({.path = copy});
    ASSERT_THAT(opened, IsOk());
    if (size == after_second) {
      EXPECT_THAT(Names(opened->get()), IsOkAndHolds(ElementsAre("a", "b")));
    } else {
      EXPECT_THAT(Names(opened->get()), IsOkAndHolds(ElementsAre("a")));
    }
  }
}

TEST_F(SqliteStoreTest, TheLogDoesNotGrowForEver) {
  for (const Durability durability : {Durability::kProcess, Durability::kPeriodic, Durability::kPower}) {
    SCOPED_TRACE(static_cast<int>(durability));
    options_.durability = durability;
    options_.path = folder_ + "/" + std::to_string(static_cast<int>(durability));
    Open();
    StateStore::SnapshotPtr layer;
    // About 100 KB each.
    for (int i = 0; i < 200; ++i) {
      const auto next = SomeLayer("a", i, 3000);
      ASSERT_THAT(store_->Write({Put(next, std::exchange(layer, next))}), IsOk());
    }
    EXPECT_LT(std::filesystem::file_size(options_.path + "-wal"), 9 << 20);
  }
}

TEST_F(SqliteStoreTest, AWriteThatFailsChangesNothingAndMayComeAgain) {
  options_.vfs = tests::FaultyFileSystem::kName;
  Open();
  const auto first = SomeLayer("a", 1);
  ASSERT_THAT(store_->Write({Put(first)}), IsOk());
  struct Fault {
    std::atomic<int>* where;
    int code;
    StatusCode status;
  };
  options_.durability = Durability::kPower;
  Open();
  ASSERT_THAT(Names(), IsOk());
  int n = 0;
  for (const Fault& fault :
       {Fault{&tests::FaultyFileSystem::write_error, SQLITE_FULL, StatusCode::kResourceExhausted},
        Fault{&tests::FaultyFileSystem::write_error, SQLITE_IOERR_WRITE, StatusCode::kUnavailable},
        Fault{&tests::FaultyFileSystem::sync_error, SQLITE_IOERR_FSYNC, StatusCode::kUnavailable}}) {
    SCOPED_TRACE(fault.code);
    const std::string name = "b" + std::to_string(n++);
    *fault.where = fault.code;
    EXPECT_THAT(store_->Write({Put(SomeLayer(name, 2)), Request("uid-of-" + name, 1, "r")}),
                StatusIs(fault.status, options_.path));
    *fault.where = SQLITE_OK;
    EXPECT_THAT(store_->Write({Put(SomeLayer(name, 3)), Request("uid-of-" + name, 1, "r")}), IsOk());
  }
  Open();
  EXPECT_THAT(Names(), IsOkAndHolds(ElementsAre("a", "b0", "b1", "b2")));
}

TEST_F(SqliteStoreTest, RefusesAFileThatItMayNotWriteTo) {
  Open();
  ASSERT_THAT(store_->Write({Put(SomeLayer("a", 1))}), IsOk());
  store_.reset();
  options_.vfs = tests::FaultyFileSystem::kName;
  tests::FaultyFileSystem::read_only = true;
  EXPECT_THAT(SqliteStore::Open(options_),
              StatusIs(StatusCode::kFailedPrecondition, "normd.db: the file is read-only"));
  tests::FaultyFileSystem::read_only = false;
  Open();
  EXPECT_THAT(Names(), IsOkAndHolds(ElementsAre("a")));
}

TEST_F(SqliteStoreTest, AllUpdatesOfAWriteOrNone) {
  Open();
  ASSERT_THAT(store_->Write({Put(SomeLayer("a", 1))}), IsOk());
  // The second cannot be: there is no such layer.
  EXPECT_THAT(store_->Write({Put(SomeLayer("b", 1)), Request("nobody", 1, "r")}),
              StatusIs(StatusCode::kInternal, "no layer with uid nobody"));
  EXPECT_THAT(store_->Write({Put(SomeLayer("b", 2))}), IsOk());
  Open();
  EXPECT_THAT(Names(), IsOkAndHolds(ElementsAre("a", "b")));
}

TEST_F(SqliteStoreTest, AFolderThatIsNotThere) {
  options_.path = folder_ + "/none/normd.db";
  EXPECT_THAT(SqliteStore::Open(options_), StatusIs(StatusCode::kUnavailable, "unable to open database file"));
}

}  // namespace
}  // namespace normd::store
