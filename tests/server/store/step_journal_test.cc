// The steps that are in the journal and not in the database yet, when the server is killed, the power fails, the file
// is damaged, or the disk refuses to take more. A copy of the files is what a kill at that moment leaves.

#include "server/store/sqlite/step_journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/store/record_format.h"
#include "server/store/sqlite/sqlite_store.h"
#include "tests/server/store/faulty_file_system.h"
#include "tests/server/store/store_data.h"
#include "tests/status_matchers.h"

namespace normd::store {
namespace {

using absl::StatusCode;
using ::testing::AnyOf;
using ::testing::ElementsAre;
using tests::ExpectSame;
using tests::FaultyFileSystem;
using tests::IsOk;
using tests::IsOkAndHolds;
using tests::NextStep;
using tests::Put;
using tests::Request;
using tests::SomeLayer;
using tests::StatusIs;
using SnapshotPtr = StateStore::SnapshotPtr;

struct Contents {
  std::map<std::string, SnapshotPtr> layers;
  // By layer uid, in order.
  std::map<std::string, std::vector<std::string>> requests;
};

absl::StatusOr<Contents> Load(SqliteStore* store) {
  Contents contents;
  absl::Status status = store->Load(
      [&](const SnapshotPtr& layer) {
        contents.layers[layer->name] = layer;
        return absl::OkStatus();
      },
      [&](const RequestRecord& request) {
        contents.requests[request.layer_uid].push_back(request.request_id);
        return absl::OkStatus();
      });
  if (!status.ok()) return status;
  return contents;
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

// Its frames as if they had been written before the machine was started. A frame: checksum, epoch, sequence, boot, size
// and that many bytes.
std::string FromEarlierBoot(std::string journal) {
  constexpr std::size_t kHead = 40;
  for (std::size_t at = 0; at + kHead <= journal.size(); at += 8) {
    uint64_t checksum = 0;
    int64_t size = 0;
    std::memcpy(&checksum, &journal[at], sizeof(checksum));
    std::memcpy(&size, &journal[at + 32], sizeof(size));
    if (size < 0 || size > static_cast<int64_t>(journal.size() - at - kHead)) continue;
    const absl::string_view rest(&journal[at + 8], kHead - 8 + static_cast<std::size_t>(size));
    if (Checksum(rest) != checksum) continue;
    ++journal[at + 24];
    checksum = Checksum(rest);
    std::memcpy(&journal[at], &checksum, sizeof(checksum));
  }
  return journal;
}

class StepJournalTest : public ::testing::Test {
 protected:
  StepJournalTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "normd_journal_XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    options_.path = folder_ + "/normd.db";
    options_.vfs = FaultyFileSystem::kName;
    FaultyFileSystem::Register();
    Open();
  }
  ~StepJournalTest() override {
    FaultyFileSystem::Register();
    store_.reset();
    std::filesystem::remove_all(folder_);
  }

  void Open() {
    store_.reset();
    auto opened = SqliteStore::Open(options_);
    ASSERT_THAT(opened, IsOk());
    store_ = *std::move(opened);
    EXPECT_THAT(Load(store_.get()), IsOk());
  }

  // Layer "a", and then steps 1, 2, ... of it, each with a request.
  void Create() {
    newest_ = SomeLayer("a", 0);
    ASSERT_THAT(store_->Write({Put(newest_)}), IsOk());
  }
  absl::Status Step() {
    const SnapshotPtr next = NextStep(*newest_, num_steps_ + 1);
    Update update = Put(next, newest_);
    update.request = Request("uid-of-a", num_steps_ + 1, absl::StrCat("r", num_steps_ + 1)).request;
    absl::Status status = store_->Write({update});
    if (status.ok()) {
      newest_ = next;
      ++num_steps_;
    }
    return status;
  }
  void Steps(int count) {
    for (int i = 0; i < count; ++i) ASSERT_THAT(Step(), IsOk());
  }

  // What a kill now would leave, elsewhere; where.
  std::string Kill() {
    std::string path = absl::StrCat(folder_, "/killed", num_copies_++, ".db");
    for (const char* suffix : {"", "-wal", "-steps"}) {
      if (std::filesystem::exists(options_.path + suffix)) {
        std::filesystem::copy_file(options_.path + suffix, path + suffix);
      }
    }
    return path;
  }
  static absl::StatusOr<Contents> Recover(const std::string& path, Durability durability = Durability::kProcess) {
    auto store = SqliteStore::Open({.path = path, .durability = durability});
    if (!store.ok()) return store.status();
    return Load(store->get());
  }
  // The number of steps, if `path` holds the state after some of them.
  static absl::StatusOr<int> NumSteps(const std::string& path) {
    absl::StatusOr<Contents> contents = Recover(path);
    if (!contents.ok()) return contents.status();
    const auto steps = static_cast<int>(contents->layers["a"]->version - SomeLayer("a", 0)->version);
    EXPECT_EQ(contents->layers["a"]->statistics->running_mean[0], steps);
    EXPECT_EQ(contents->requests["uid-of-a"].size(), static_cast<std::size_t>(steps));
    return steps;
  }
  // NumSteps with another journal.
  absl::StatusOr<int> NumStepsWith(const std::string& killed, const std::string& journal) {
    const std::string path = absl::StrCat(folder_, "/with", num_copies_++, ".db");
    std::filesystem::copy_file(killed, path);
    std::filesystem::copy_file(killed + "-wal", path + "-wal");
    WriteFile(path + "-steps", journal);
    absl::StatusOr<int> steps = NumSteps(path);
    for (const char* suffix : {"", "-wal", "-steps"}) std::filesystem::remove(path + suffix);
    return steps;
  }

  std::string folder_;
  SqliteOptions options_;
  std::unique_ptr<SqliteStore> store_;
  SnapshotPtr newest_;
  int num_steps_ = 0;
  int num_copies_ = 0;
};

TEST_F(StepJournalTest, StepsAreThereAfterAKillAndAfterAStop) {
  Create();
  Steps(1);
  const auto log_bytes = std::filesystem::file_size(options_.path + "-wal");
  const auto journal_bytes = std::filesystem::file_size(options_.path + "-steps");
  Steps(3);
  // It is the journal that has them.
  EXPECT_EQ(std::filesystem::file_size(options_.path + "-wal"), log_bytes);
  EXPECT_GT(std::filesystem::file_size(options_.path + "-steps"), journal_bytes);
  for (const Durability durability : {Durability::kProcess, Durability::kPeriodic, Durability::kPower}) {
    auto contents = Recover(Kill(), durability);
    ASSERT_THAT(contents, IsOk());
    ExpectSame(*contents->layers["a"], *newest_);
    EXPECT_THAT(contents->requests["uid-of-a"], ElementsAre("r1", "r2", "r3", "r4"));
  }
  Open();
  EXPECT_EQ(Load(store_.get())->layers["a"]->version, newest_->version);
  store_.reset();
  EXPECT_FALSE(std::filesystem::exists(options_.path + "-steps"));
  EXPECT_FALSE(std::filesystem::exists(options_.path + "-wal"));
  EXPECT_THAT(NumSteps(options_.path), IsOkAndHolds(4));
}

TEST_F(StepJournalTest, OnlyTheOtherDurabilitiesDoWithout) {
  for (const Durability durability : {Durability::kPeriodic, Durability::kPower}) {
    options_.durability = durability;
    options_.path = absl::StrCat(folder_, "/", static_cast<int>(durability));
    num_steps_ = 0;
    Open();
    Create();
    Steps(3);
    EXPECT_FALSE(std::filesystem::exists(options_.path + "-steps"));
    EXPECT_THAT(NumSteps(Kill()), IsOkAndHolds(3));
  }
}

// More than a journal holds, with a kill at every step.
TEST_F(StepJournalTest, IsBegunAnewWhenItIsFull) {
  Create();
  std::uintmax_t largest = 0;
  for (int i = 1; i <= 600; ++i) {
    Steps(1);
    largest = std::max(largest, std::filesystem::file_size(options_.path + "-steps"));
    if (i % 37 == 0 || (i > 250 && i < 262)) {
      EXPECT_THAT(NumSteps(Kill()), IsOkAndHolds(i));
    }
  }
  EXPECT_LT(largest, 256 << 10);
  // Large ones fill it sooner, and the largest never come in.
  SnapshotPtr large = SomeLayer("large", 0, 5000);
  SnapshotPtr largest_layer = SomeLayer("largest", 0, 100'000);
  ASSERT_THAT(store_->Write({Put(large), Put(largest_layer)}), IsOk());
  for (int i = 1; i <= 60; ++i) {
    const SnapshotPtr next = NextStep(*large, i);
    ASSERT_THAT(store_->Write({Put(next, std::exchange(large, next))}), IsOk());
    if (i % 10 == 0) {
      const SnapshotPtr other = NextStep(*largest_layer, i);
      ASSERT_THAT(store_->Write({Put(other, std::exchange(largest_layer, other))}), IsOk());
    }
  }
  EXPECT_LT(std::filesystem::file_size(options_.path + "-steps"), 1280 << 10);
  auto contents = Recover(Kill());
  ASSERT_THAT(contents, IsOk());
  ExpectSame(*contents->layers["large"], *large);
  ExpectSame(*contents->layers["largest"], *largest_layer);
}

TEST_F(StepJournalTest, AnEndThatIsMissingLosesWholeStepsFromTheEnd) {
  Create();
  Steps(1);
  std::vector<std::size_t> ends = {0};
  for (int i = 0; i < 4; ++i) {
    Steps(1);
    ends.push_back(std::filesystem::file_size(options_.path + "-steps"));
  }
  const std::string killed = Kill();
  const std::string journal = ReadFile(killed + "-steps");
  int complete = 0;
  for (std::size_t size = 0; size <= journal.size(); size += 3) {
    while (complete + 1 < static_cast<int>(ends.size()) && ends[static_cast<std::size_t>(complete) + 1] <= size) {
      ++complete;
    }
    // The first step went into the database, with the start of the journal.
    ASSERT_THAT(NumStepsWith(killed, journal.substr(0, size)), IsOkAndHolds(1 + complete)) << size;
  }
  EXPECT_THAT(NumStepsWith(killed, journal), IsOkAndHolds(5));
}

TEST_F(StepJournalTest, ADamagedStepIsReportedAndTheFilesAreLeftAlone) {
  Create();
  Steps(3);
  // The first step is in the database.
  const auto end_of_second = std::filesystem::file_size(options_.path + "-steps");
  Steps(1);
  const std::string killed = Kill();
  const std::string good = ReadFile(killed + "-steps");
  const std::string database = ReadFile(killed);
  for (std::size_t byte = 0; byte < good.size(); byte += 3) {
    std::string bad = good;
    bad[byte] = static_cast<char>(bad[byte] ^ 0x10);
    if (byte < end_of_second) {
      ASSERT_THAT(NumStepsWith(killed, bad), StatusIs(StatusCode::kDataLoss, "-steps: the record of a step")) << byte;
    } else {
      // As if it had not been written to its end.
      ASSERT_THAT(NumStepsWith(killed, bad), IsOkAndHolds(3)) << byte;
    }
  }
  // One that is not there at all.
  const std::size_t size = good.size() - end_of_second;
  EXPECT_THAT(NumStepsWith(killed, good.substr(0, size) + good.substr(2 * size)),
              StatusIs(StatusCode::kDataLoss, "-steps: the record of a step"));
  std::string bad = good;
  bad[0] = static_cast<char>(bad[0] + 1);
  WriteFile(killed + "-steps", bad);
  const std::string log = ReadFile(killed + "-wal");
  EXPECT_THAT(NumSteps(killed), StatusIs(StatusCode::kDataLoss));
  EXPECT_EQ(ReadFile(killed + "-steps"), bad);
  WriteFile(killed + "-steps", good);
  EXPECT_THAT(NumSteps(killed), IsOkAndHolds(4));
}

// The record of a layer, which the checksum of a step has nothing to say about.
TEST_F(StepJournalTest, ADamagedDatabaseIsNotWrittenTo) {
  Create();
  Steps(3);
  const std::string killed = Kill();
  sqlite3* database = nullptr;
  ASSERT_EQ(sqlite3_open(killed.c_str(), &database), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(database, "UPDATE parameters SET bytes = x'00'", nullptr, nullptr, nullptr), SQLITE_OK);
  ASSERT_EQ(sqlite3_close(database), SQLITE_OK);
  const std::string before = ReadFile(killed);
  const std::string journal = ReadFile(killed + "-steps");
  EXPECT_THAT(NumSteps(killed), StatusIs(StatusCode::kDataLoss));
  EXPECT_EQ(ReadFile(killed), before);
  EXPECT_EQ(ReadFile(killed + "-steps"), journal);
}

// The same with steps that were written before the machine was started: the loss of power may have kept any of them.
TEST_F(StepJournalTest, AfterALossOfPowerTheStepsEndAtTheFirstThatIsMissing) {
  Create();
  Steps(1);
  std::vector<std::size_t> ends = {0};
  for (int i = 0; i < 4; ++i) {
    Steps(1);
    ends.push_back(std::filesystem::file_size(options_.path + "-steps"));
  }
  const std::string killed = Kill();
  const std::string journal = FromEarlierBoot(ReadFile(killed + "-steps"));
  EXPECT_THAT(NumStepsWith(killed, journal), IsOkAndHolds(5));
  for (std::size_t lost = 0; lost + 1 < ends.size(); ++lost) {
    std::string rest = journal;
    for (std::size_t i = ends[lost]; i < ends[lost + 1]; ++i) rest[i] = 0;
    EXPECT_THAT(NumStepsWith(killed, rest), IsOkAndHolds(1 + static_cast<int>(lost)));
  }
}

// A log that ends with an earlier transaction than the one that began the journal, or a database that is an older copy.
TEST_F(StepJournalTest, StepsOfAnotherEpochAreNotUsed) {
  Create();
  Steps(10);
  const std::string early = Kill();
  const std::string early_journal = ReadFile(early + "-steps");
  Steps(300);
  const std::string late = Kill();
  const std::string late_journal = ReadFile(late + "-steps");
  EXPECT_THAT(NumStepsWith(early, late_journal.substr(0, early_journal.size() / 2)), IsOkAndHolds(1));
  EXPECT_THAT(NumStepsWith(early, FromEarlierBoot(late_journal)), IsOkAndHolds(1));
  // No loss of power has brought these two together.
  EXPECT_THAT(NumStepsWith(early, late_journal), StatusIs(StatusCode::kDataLoss, "goes with a newer state"));
  const absl::StatusOr<int> begun = NumStepsWith(late, "");
  ASSERT_THAT(begun, IsOk());
  EXPECT_GT(*begun, 250);
  EXPECT_THAT(NumStepsWith(late, early_journal), IsOkAndHolds(*begun));
  EXPECT_THAT(NumStepsWith(late, late_journal), IsOkAndHolds(310));
  // Its rest is of the epoch before, and ends nothing too early or too late.
  EXPECT_GT(late_journal.size(), early_journal.size());
}

TEST_F(StepJournalTest, AMissingJournalIsReportedAndMayBeGivenUp) {
  Create();
  Steps(5);
  const std::string killed = Kill();
  std::filesystem::remove(killed + "-steps");
  EXPECT_THAT(NumSteps(killed),
              StatusIs(StatusCode::kDataLoss, "put it back beside the database, or make an empty file"));
  WriteFile(killed + "-steps", "");
  EXPECT_THAT(NumSteps(killed), IsOkAndHolds(1));
}

TEST_F(StepJournalTest, AStepThatIsNotWrittenChangesNothing) {
  Create();
  Steps(5);
  for (const int code : {SQLITE_FULL, SQLITE_IOERR_WRITE}) {
    for (const int written : {0, 100, 1 << 20}) {
      for (const int truncate : {SQLITE_OK, SQLITE_IOERR_TRUNCATE}) {
        SCOPED_TRACE(absl::StrCat(code, " after ", written, " bytes, truncation ", truncate));
        FaultyFileSystem::bytes_before_error = written;
        FaultyFileSystem::truncate_error = truncate;
        FaultyFileSystem::write_error = code;
        const absl::Status first = Step();
        FaultyFileSystem::bytes_before_error = 0;
        if (truncate == SQLITE_OK) {
          EXPECT_THAT(first, StatusIs(code == SQLITE_FULL ? StatusCode::kResourceExhausted : StatusCode::kUnavailable,
                                      "normd.db-steps: cannot be written to"));
          EXPECT_FALSE(IsOutcomeUnknown(first));
          EXPECT_THAT(NumSteps(Kill()), IsOkAndHolds(num_steps_));
        } else {
          EXPECT_TRUE(IsOutcomeUnknown(first)) << first;
          EXPECT_THAT(NumSteps(Kill()), IsOkAndHolds(AnyOf(num_steps_, num_steps_ + 1)));
        }
        // Now the database would have to take it.
        EXPECT_FALSE(Step().ok());
        FaultyFileSystem::truncate_error = SQLITE_OK;
        FaultyFileSystem::write_error = SQLITE_OK;
        // A loss of power might leave the frame that failed in the place of the next: so that one is of a new epoch.
        const std::string epoch = ReadFile(options_.path + "-steps").substr(8, 8);
        Steps(3);
        EXPECT_NE(ReadFile(options_.path + "-steps").substr(8, 8), epoch);
        EXPECT_THAT(NumSteps(Kill()), IsOkAndHolds(num_steps_));
      }
    }
  }
  Open();
  ExpectSame(*Load(store_.get())->layers["a"], *newest_);
}

TEST_F(StepJournalTest, AFullDiskAtTheStartHoldsNoReaderUp) {
  Create();
  Steps(5);
  options_.path = Kill();
  store_.reset();
  FaultyFileSystem::write_error = SQLITE_FULL;
  auto opened = SqliteStore::Open(options_);
  ASSERT_THAT(opened, IsOk());
  store_ = *std::move(opened);
  auto contents = Load(store_.get());
  ASSERT_THAT(contents, IsOk());
  ExpectSame(*contents->layers["a"], *newest_);
  EXPECT_THAT(Step(), StatusIs(StatusCode::kResourceExhausted));
  FaultyFileSystem::write_error = SQLITE_OK;
  Steps(2);
  EXPECT_THAT(NumSteps(Kill()), IsOkAndHolds(7));
}

// Steps among all else that may be written, against a plain model, with kills and stops between.
TEST_F(StepJournalTest, LongRunsAgreeWithAModel) {
  std::mt19937 random(20261126);
  const auto pick = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  Contents model;
  std::map<std::string, int64_t> sequences;
  const auto check = [&](const std::string& path) {
    auto contents = Recover(path);
    ASSERT_THAT(contents, IsOk());
    ASSERT_EQ(contents->layers.size(), model.layers.size());
    for (const auto& [name, layer] : model.layers) ExpectSame(*contents->layers[name], *layer);
    std::erase_if(model.requests, [](const auto& entry) { return entry.second.empty(); });
    ASSERT_EQ(contents->requests, model.requests);
  };
  for (int i = 0; i < 4000; ++i) {
    const std::string name(1, static_cast<char>('a' + pick(6)));
    const std::string uid = "uid-of-" + name;
    const auto found = model.layers.find(name);
    std::vector<Update> updates(1);
    Update& update = updates[0];
    if (found == model.layers.end()) {
      update = Put(SomeLayer(name, i));
    } else if (pick(300) == 0) {
      update.remove = GoneLayer{
          .uid = uid, .version = found->second->version, .contributors = found->second->contributors, .time = {}};
    } else {
      auto next = std::make_shared<layer::LayerSnapshot>(*NextStep(*found->second, i));
      if (pick(10) == 0) {
        next->contributors =
            std::make_shared<layer::Contributors>(*next->contributors->With(absl::StrCat("c", pick(20)), i));
      }
      if (pick(20) == 0) {
        auto affine = std::make_shared<layer::Affine>(*next->affine);
        affine->gamma[0] = i;
        next->affine = affine;
        next->content_hash = layer::ContentHash(*next->config, *next->statistics, *affine);
      }
      if (pick(200) == 0) next->config = std::make_shared<layer::LayerConfig>(*next->config);
      update = Put(next, found->second);
    }
    std::vector<std::string>& requests = model.requests[uid];
    int64_t& sequence = sequences[uid];
    const bool with_request = pick(2) == 0;
    int forgotten = 0;
    if (with_request) {
      ++sequence;
      update.request = Request(uid, sequence, absl::StrCat("r", sequence)).request;
      if (pick(10) == 0) {
        forgotten = pick(static_cast<int>(requests.size()) + 1);
        update.forget_through = sequence - 1 - static_cast<int64_t>(requests.size()) + forgotten;
      }
    }
    ASSERT_THAT(store_->Write(updates), IsOk());
    if (with_request) {
      requests.erase(requests.begin(), requests.begin() + forgotten);
      requests.push_back(update.request->request_id);
    }
    if (update.put != nullptr) model.layers[name] = update.put;
    if (update.remove.has_value()) model.layers.erase(name);
    if (pick(40) == 0) check(Kill());
    if (pick(400) == 0) {
      Open();
      check(Kill());
    }
  }
}

}  // namespace
}  // namespace normd::store
