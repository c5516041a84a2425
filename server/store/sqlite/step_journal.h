#ifndef NORMD_SERVER_STORE_SQLITE_STEP_JOURNAL_H_
#define NORMD_SERVER_STORE_SQLITE_STEP_JOURNAL_H_

#include <sqlite3.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace normd::store {

// What training steps have changed since the database was last written, in the file PATH-steps beside it: a transaction
// of SQLite for every step costs twice the rest of the step's bookkeeping (docs/adr/2026-11-26-step-journal.md). Not
// thread-safe; the lock of the database guards the file, too.
//
// The file is a row of frames, each one Append, written over those of the epoch before. An epoch lasts from one
// transaction of the database to the next and has a number drawn at random, which stands in the database and in each
// frame:
// - Killed: frames and transactions are in the operating system's hands in the order in which they were written, so the
//   database names the epoch of the newest transaction, and the frames of it stand at the start of the file, one after
//   the other. A frame that was being written is torn, and its step was not acknowledged.
// - Power lost: the log of the database ends with some transaction (SQLite sees to that), and what is used of the file
//   is the frames that belong to it up to the first that is not whole: the state at some moment, later than that of the
//   transaction. Frames of other epochs, which stand for changes of a state that is lost, or that the database has, are
//   not used.
// - Damaged: a frame that is not whole, with one behind it that is and was written since this machine was started. What
//   was written before it was started may have been lost by the loss of power.
class StepJournal {
 public:
  // An empty file, known to its folder. `database`: the path of it. `vfs` as in SqliteOptions. UNAVAILABLE,
  // RESOURCE_EXHAUSTED: it cannot be made.
  static absl::StatusOr<std::unique_ptr<StepJournal>> Create(const std::string& database, const char* vfs);
  // The frames of an epoch. DATA_LOSS: the file is damaged, or not there.
  static absl::StatusOr<std::unique_ptr<StepJournal>> Recover(const std::string& database, const char* vfs,
                                                              int64_t epoch);
  // Of 63 bits and not 0.
  static int64_t NewEpoch();
  ~StepJournal();
  StepJournal(const StepJournal&) = delete;
  StepJournal& operator=(const StepJournal&) = delete;

  // Begins anew: what it held is in the database now, which names this epoch. 0: nothing will be appended.
  void Start(int64_t epoch);
  // Whether so many bytes may be appended. If not, the database is to be written, and the journal begun anew: it is
  // full, is not begun yet, or a frame could not be written.
  bool Accepts(std::size_t size) const;
  // REQUIRES: Accepts. Statuses of StateStore::Write.
  absl::Status Append(absl::string_view bytes);
  // What was appended, in order. Good until the next call.
  std::vector<absl::string_view> Contents() const;
  // Deletes the file, which is of no use any more.
  void Remove();

 private:
  struct File;

  explicit StepJournal(std::unique_ptr<File> file);
  // Takes the valid frames at the start of what the file holds.
  absl::Status Take(std::string content, int64_t epoch);

  const std::unique_ptr<File> file_;
  const uint64_t boot_;
  // The frames of this epoch, as they stand in the file.
  std::string frames_;
  int64_t epoch_ = 0;
  int64_t num_frames_ = 0;
  bool accepts_ = false;
};

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_SQLITE_STEP_JOURNAL_H_
