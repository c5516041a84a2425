#include "server/shm/region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/quoted.h"
#include "server/shm/secret.h"

namespace normd::shm {
namespace {

constexpr std::size_t kMaxNameBytes = 255;

// "shared memory '/tensors': "
std::string Prefix(absl::string_view name) { return absl::StrCat("shared memory ", base::Quoted(name), ": "); }

absl::Status BadName(absl::string_view name) {
  return absl::InvalidArgumentError(
      absl::StrCat(Prefix(name), "want a slash and 1 to ", kMaxNameBytes - 1, " other characters without a slash"));
}

absl::Status CannotOpen(absl::string_view name, int error) {
  switch (error) {
    case EINVAL:  // From shm_open: a directory.
    case ELOOP:
    case ENXIO:
      return absl::InvalidArgumentError(absl::StrCat(Prefix(name), "is no shared-memory object"));
    case EAGAIN:
      return absl::InvalidArgumentError(absl::StrCat(Prefix(name), "is under a file lease"));
    default:
      return absl::ErrnoToStatus(error, absl::StrCat(Prefix(name), "cannot be opened"));
  }
}

absl::Status CheckOwner(absl::string_view name, const struct stat& stat, const Identity& self) {
  if ((stat.st_mode & S_IWOTH) != 0) {
    return absl::PermissionDeniedError(absl::StrCat(Prefix(name), "everybody may write to it; want mode 0600 or 0660"));
  }
  if (stat.st_uid == self.uid) return absl::OkStatus();
  const bool shared = (stat.st_mode & S_IRGRP) != 0 && (stat.st_mode & S_IWGRP) != 0 &&
                      std::find(self.groups.begin(), self.groups.end(), stat.st_gid) != self.groups.end();
  if (shared) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat(Prefix(name), "belongs to user ", stat.st_uid, ", want user ",
                                                  self.uid,
                                                  " as the server, or mode 0660 and one of the server's groups"));
}

// Read through the descriptor: the mapping could fault.
bool BeginsWith(int fd, absl::string_view key) {
  char start[kSecretBytes];
  return pread(fd, start, sizeof(start), 0) == static_cast<ssize_t>(sizeof(start)) &&
         SameSecret(absl::string_view(start, sizeof(start)), key);
}

}  // namespace

Identity Identity::OfProcess() {
  Identity self;
  self.uid = geteuid();
  const int count = getgroups(0, nullptr);
  if (count > 0) {
    self.groups.resize(static_cast<std::size_t>(count));
    self.groups.resize(static_cast<std::size_t>(std::max(0, getgroups(count, self.groups.data()))));
  }
  self.groups.push_back(getegid());
  return self;
}

absl::Status Region::CheckName(absl::string_view name) {
  if (name.size() < 2 || name.size() > kMaxNameBytes || name[0] != '/') return BadName(name);
  const absl::string_view rest = name.substr(1);
  if (rest == "." || rest == "..") return BadName(name);
  if (rest.find('/') != absl::string_view::npos || rest.find('\0') != absl::string_view::npos) return BadName(name);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Region>> Region::Open(const std::string& name, int64_t size_bytes,
                                                     std::optional<absl::string_view> key, const Identity& self) {
  if (absl::Status status = CheckName(name); !status.ok()) return status;
  if (size_bytes < kMinRegionBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(Prefix(name), "size_bytes is ", size_bytes, ", want at least ", kMinRegionBytes));
  }
  // glibc adds O_NOFOLLOW and O_CLOEXEC. O_NONBLOCK: no waiting for a file lease to be broken.
  const int fd = shm_open(name.c_str(), O_RDWR | O_NONBLOCK, 0);
  if (fd < 0) return CannotOpen(name, errno);
  struct stat stat = {};
  if (fstat(fd, &stat) != 0) {
    const int error = errno;
    close(fd);
    return CannotOpen(name, error);
  }
  std::unique_ptr<Region> region(new Region(name, size_bytes, self, fd, stat));  // Closes it from here on.
  if (!S_ISREG(stat.st_mode)) return CannotOpen(name, ENXIO);
  if (absl::Status status = CheckOwner(name, stat, self); !status.ok()) return status;
  // Before the size, which is nobody's business who does not have the key.
  if (key.has_value() && !BeginsWith(fd, *key)) {
    return absl::PermissionDeniedError(absl::StrCat(Prefix(name), "does not begin with the session's key"));
  }
  if (stat.st_size < size_bytes) {
    return absl::OutOfRangeError(absl::StrCat(Prefix(name), "has ", stat.st_size, " bytes, want ", size_bytes));
  }
  if (absl::Status status = region->Map(); !status.ok()) return status;
  return region;
}

Region::~Region() {
  // The guard first: afterwards the addresses may belong to somebody else.
  guard_.reset();
  if (data_ != nullptr) munmap(data_, static_cast<std::size_t>(size_bytes_));
  close(fd_);
}

absl::Status Region::Map() {
  const auto bytes = static_cast<std::size_t>(size_bytes_);
  void* const mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (mapped == MAP_FAILED) {
    if (errno == ENOMEM) return absl::ResourceExhaustedError(absl::StrCat(Prefix(name_), "no room to map it"));
    return absl::ErrnoToStatus(errno, absl::StrCat(Prefix(name_), "cannot be mapped"));
  }
  data_ = static_cast<char*>(mapped);
  absl::StatusOr<std::unique_ptr<SigbusGuard>> guard = SigbusGuard::Watch(data_, bytes);
  if (!guard.ok()) return guard.status();
  guard_ = *std::move(guard);
  return absl::OkStatus();
}

absl::StatusOr<char*> Region::Resolve(int64_t offset, int64_t bytes, int64_t alignment) const {
  // No sum that could overflow.
  if (offset < 0 || bytes < 0 || offset > size_bytes_ || bytes > size_bytes_ - offset) {
    return absl::InvalidArgumentError(
        absl::StrCat(Prefix(name_), bytes, " bytes at offset ", offset, " leave the region, which has ", size_bytes_));
  }
  if (offset % alignment != 0) {
    return absl::InvalidArgumentError(absl::StrCat(Prefix(name_), "offset ", offset, " is no multiple of ", alignment));
  }
  const absl::StatusOr<struct stat> stat = Look();
  if (!stat.ok()) return stat.status();
  if (absl::Status status = CheckOwner(name_, *stat, self_); !status.ok()) return status;
  return data_ + offset;
}

absl::Status Region::CheckNotLost() const { return Look().status(); }

absl::Status Region::Lost() const {
  return absl::DataLossError(absl::StrCat(Prefix(name_), "was cut short below the ", size_bytes_,
                                          " bytes that are registered; register it anew"));
}

absl::StatusOr<struct stat> Region::Look() const {
  struct stat stat = {};
  if (fstat(fd_, &stat) != 0 || stat.st_size < size_bytes_) guard_->MarkLost();
  if (lost()) return Lost();
  return stat;
}

}  // namespace normd::shm
