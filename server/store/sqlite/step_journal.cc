#include "server/store/sqlite/step_journal.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <optional>
#include <random>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "server/store/record_format.h"
#include "server/store/state_store.h"

namespace normd::store {
namespace {

// The database takes as much in about a millisecond, for which the steps that come meanwhile wait.
constexpr int64_t kMostFrames = 256;
constexpr std::size_t kMostBytes = 1 << 20;
// What is larger costs less in the database at once than here and there.
constexpr std::size_t kLargestFrame = kMostBytes / 4;

struct Head {
  // Of all that follows in the frame.
  uint64_t checksum = 0;
  int64_t epoch = 0;
  int64_t sequence = 0;
  uint64_t boot = 0;
  int64_t size = 0;
};
constexpr std::size_t kWord = sizeof(uint64_t);

uint64_t FrameChecksum(absl::string_view frame) { return Checksum(frame.substr(sizeof(Head::checksum))); }

// The head of the frame at the start of `bytes`; absent: there is no whole one of this epoch.
std::optional<Head> ReadFrame(absl::string_view bytes, int64_t epoch) {
  Head head;
  if (bytes.size() < sizeof(head)) return std::nullopt;
  std::memcpy(&head, bytes.data(), sizeof(head));
  if (head.epoch != epoch || head.size < 0 || head.size > static_cast<int64_t>(bytes.size() - sizeof(head))) {
    return std::nullopt;
  }
  const absl::string_view frame = bytes.substr(0, sizeof(head) + static_cast<std::size_t>(head.size));
  return FrameChecksum(frame) == head.checksum ? std::optional<Head>(head) : std::nullopt;
}

// Another one each time this machine is started.
uint64_t ReadBoot() {
  std::string id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
  // Without one nothing counts as written since the start.
  return id.empty() ? std::random_device()() : Checksum(id);
}

}  // namespace

// By the system's interface of SQLite, as the files of the database are, and with the rights that the database has.
struct StepJournal::File {
  static absl::StatusOr<std::unique_ptr<File>> Open(const std::string& database, const char* vfs, bool create) {
    auto file = std::make_unique<File>();
    file->vfs = sqlite3_vfs_find(vfs);
    file->path.resize(static_cast<std::size_t>(file->vfs->mxPathname) + 1);
    file->vfs->xFullPathname(file->vfs, database.c_str(), file->vfs->mxPathname, file->path.data());
    file->path.resize(std::strlen(file->path.c_str()));
    file->path += "-steps";
    file->name = sqlite3_create_filename(database.c_str(), file->path.c_str(), "", 0, nullptr);
    file->memory = std::make_unique<uint64_t[]>(static_cast<std::size_t>(file->vfs->szOsFile) / kWord + 1);
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_MAIN_JOURNAL | (create ? SQLITE_OPEN_CREATE : 0);
    const int code = file->vfs->xOpen(file->vfs, sqlite3_filename_journal(file->name), file->get(), flags, nullptr);
    if (code != SQLITE_OK) return file->Error("cannot be opened", code);
    return file;
  }

  File() = default;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (memory != nullptr && get()->pMethods != nullptr) get()->pMethods->xClose(get());
    sqlite3_free_filename(name);
  }

  int Size(std::size_t* size) const {
    sqlite3_int64 bytes = 0;
    const int code = methods().xFileSize(get(), &bytes);
    *size = static_cast<std::size_t>(bytes);
    return code;
  }
  int Read(char* to, std::size_t size) const {
    return InPieces(size, [&](std::size_t begin, int length) {
      return methods().xRead(get(), to + begin, length, static_cast<sqlite3_int64>(begin));
    });
  }
  int Write(absl::string_view bytes, std::size_t offset) const {
    return InPieces(bytes.size(), [&](std::size_t begin, int length) {
      return methods().xWrite(get(), bytes.data() + begin, length,
                              static_cast<sqlite3_int64>(offset) + static_cast<sqlite3_int64>(begin));
    });
  }
  int Truncate(std::size_t size) const { return methods().xTruncate(get(), static_cast<sqlite3_int64>(size)); }
  int Sync() const { return methods().xSync(get(), SQLITE_SYNC_NORMAL); }
  void Delete() const { vfs->xDelete(vfs, path.c_str(), 0); }

  // Of at most the size of a page of SQLite: longer ones the interface writes in part.
  static int InPieces(std::size_t size, absl::FunctionRef<int(std::size_t begin, int length)> use) {
    constexpr std::size_t kPiece = 64 << 10;
    int code = SQLITE_OK;
    for (std::size_t begin = 0; begin < size && code == SQLITE_OK; begin += kPiece) {
      code = use(begin, static_cast<int>(std::min(kPiece, size - begin)));
    }
    return code;
  }

  sqlite3_file* get() const { return reinterpret_cast<sqlite3_file*>(memory.get()); }
  const sqlite3_io_methods& methods() const { return *get()->pMethods; }
  absl::Status Error(absl::string_view what, int code) const {
    const std::string text =
        absl::StrCat("state store ", path, ": ", what, ": ", sqlite3_errstr(code), " (SQLite error ", code, ")");
    return (code & 0xff) == SQLITE_FULL ? absl::ResourceExhaustedError(text) : absl::UnavailableError(text);
  }

  sqlite3_vfs* vfs = nullptr;
  std::string path;
  // As the interface wants it, to be kept until the file is closed.
  const char* name = nullptr;
  // A sqlite3_file of this interface.
  std::unique_ptr<uint64_t[]> memory;
};

StepJournal::StepJournal(std::unique_ptr<File> file) : file_(std::move(file)), boot_(ReadBoot()) {}

StepJournal::~StepJournal() = default;

int64_t StepJournal::NewEpoch() {
  std::random_device random;
  const uint64_t number = (uint64_t{random()} << 32 | random()) & INT64_MAX;
  return static_cast<int64_t>(std::max<uint64_t>(number, 1));
}

absl::StatusOr<std::unique_ptr<StepJournal>> StepJournal::Create(const std::string& database, const char* vfs) {
  absl::StatusOr<std::unique_ptr<File>> file = File::Open(database, vfs, true);
  if (!file.ok()) return file.status();
  int code = (*file)->Truncate(0);
  if (code == SQLITE_OK) code = (*file)->Sync();
  if (code != SQLITE_OK) return (*file)->Error("cannot be made", code);
  return std::unique_ptr<StepJournal>(new StepJournal(*std::move(file)));
}

absl::StatusOr<std::unique_ptr<StepJournal>> StepJournal::Recover(const std::string& database, const char* vfs,
                                                                  int64_t epoch) {
  absl::StatusOr<std::unique_ptr<File>> file = File::Open(database, vfs, false);
  if (!file.ok()) {
    return absl::DataLossError(
        absl::StrCat(file.status().message(),
                     "; it holds the newest updates: put it back beside the database, or make an empty file "
                     "of that name to go on without them"));
  }
  std::size_t size = 0;
  int code = (*file)->Size(&size);
  std::string content(size, '\0');
  if (code == SQLITE_OK) code = (*file)->Read(content.data(), size);
  if (code != SQLITE_OK) return (*file)->Error("cannot be read", code);
  std::unique_ptr<StepJournal> journal(new StepJournal(*std::move(file)));
  absl::Status status = journal->Take(std::move(content), epoch);
  if (!status.ok()) return status;
  return journal;
}

absl::Status StepJournal::Take(std::string content, int64_t epoch) {
  const absl::string_view bytes = content;
  std::size_t end = 0;
  while (const std::optional<Head> head = ReadFrame(bytes.substr(end), epoch)) {
    if (head->sequence != num_frames_) break;
    end += sizeof(Head) + static_cast<std::size_t>(head->size);
    ++num_frames_;
  }
  for (std::size_t at = end; at + sizeof(Head) <= bytes.size(); at += kWord) {
    const std::optional<Head> head = ReadFrame(bytes.substr(at), epoch);
    if (head.has_value() && head->boot == boot_) {
      return absl::DataLossError(
          absl::StrCat("state store ", file_->path, ": the record of a step, ", end,
                       " bytes from the start, is damaged, or the file goes with a newer state of the database"));
    }
  }
  content.resize(end);
  frames_ = std::move(content);
  epoch_ = epoch;
  return absl::OkStatus();
}

void StepJournal::Start(int64_t epoch) {
  frames_.clear();
  epoch_ = epoch;
  num_frames_ = 0;
  accepts_ = epoch != 0;
}

bool StepJournal::Accepts(std::size_t size) const {
  return accepts_ && num_frames_ < kMostFrames && size <= kLargestFrame && frames_.size() + size <= kMostBytes;
}

absl::Status StepJournal::Append(absl::string_view bytes) {
  const std::size_t begin = frames_.size();
  Head head = {.checksum = 0,
               .epoch = epoch_,
               .sequence = num_frames_,
               .boot = boot_,
               .size = static_cast<int64_t>(bytes.size())};
  frames_.append(reinterpret_cast<const char*>(&head), sizeof(head));
  frames_.append(bytes.data(), bytes.size());
  const absl::string_view frame = absl::string_view(frames_).substr(begin);
  head.checksum = FrameChecksum(frame);
  std::memcpy(&frames_[begin], &head.checksum, sizeof(head.checksum));
  const int code = file_->Write(frame, begin);
  if (code == SQLITE_OK) {
    ++num_frames_;
    return absl::OkStatus();
  }
  // The frame must not be found by the next server, and by none after a loss of power, which may have kept it although
  // another one was written in its place: so nothing is appended to this epoch any more.
  frames_.resize(begin);
  accepts_ = false;
  const absl::Status status = file_->Error("cannot be written to", code);
  const bool gone = file_->Truncate(begin) == SQLITE_OK;
  return gone ? status : OutcomeUnknownError(status.message());
}

std::vector<absl::string_view> StepJournal::Contents() const {
  std::vector<absl::string_view> contents;
  absl::string_view rest = frames_;
  while (!rest.empty()) {
    Head head;
    std::memcpy(&head, rest.data(), sizeof(head));
    rest.remove_prefix(sizeof(head));
    contents.push_back(rest.substr(0, static_cast<std::size_t>(head.size)));
    rest.remove_prefix(contents.back().size());
  }
  return contents;
}

void StepJournal::Remove() { file_->Delete(); }

}  // namespace normd::store
