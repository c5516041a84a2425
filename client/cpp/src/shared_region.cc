#include "client/cpp/src/shared_region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace normd::internal {
namespace {

absl::Status Failure(absl::string_view what, int error) {
  return absl::UnavailableError(absl::StrCat("no shared memory: ", what, ": ", std::strerror(error)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<SharedRegion>> SharedRegion::Create(std::size_t capacity, absl::string_view key) {
  // For a name that nobody can guess.
  char random[16];
  if (getrandom(random, sizeof(random), 0) != sizeof(random)) return Failure("getrandom", errno);

  auto region = std::unique_ptr<SharedRegion>(new SharedRegion());
  region->name_ = absl::StrCat("/normd-", absl::BytesToHexString(absl::string_view(random, sizeof(random))));
  region->size_ = capacity + kDataOffset;
  region->file_ = shm_open(region->name_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR);
  if (region->file_ < 0) return Failure("shm_open", errno);
  region->linked_ = true;
  if (const int error = posix_fallocate(region->file_, 0, static_cast<off_t>(region->size_)); error != 0) {
    return Failure(absl::StrCat(region->size_, " bytes"), error);
  }
  void* base = mmap(nullptr, region->size_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, region->file_, 0);
  if (base == MAP_FAILED) return Failure("mmap", errno);
  region->base_ = static_cast<char*>(base);
  std::memcpy(region->base_, key.data(), key.size());
  return region;
}

SharedRegion::~SharedRegion() {
  Unlink();
  if (base_ != nullptr) munmap(base_, size_);
  if (file_ >= 0) close(file_);
}

void SharedRegion::Unlink() {
  if (linked_) shm_unlink(name_.c_str());
  linked_ = false;
}

bool SharedRegion::Intact() const {
  struct stat facts = {};
  return fstat(file_, &facts) == 0 && static_cast<std::size_t>(facts.st_size) >= size_;
}

}  // namespace normd::internal
