#include "server/base/watched_files.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace normd::base {

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (file.is_open() && !file.bad() && errno == 0) return bytes;
  const int error = errno != 0 ? errno : EIO;
  return absl::ErrnoToStatus(error, absl::StrCat("cannot read ", path));
}

WatchedFiles::WatchedFiles(std::vector<std::string> paths, const Clock& clock)
    : paths_(std::move(paths)), clock_(clock), looked_(clock.Elapsed()), known_(Look()) {}

bool WatchedFiles::Changed() {
  const MutexLock lock(&mutex_);
  const absl::Duration now = clock_.Elapsed();
  if (now - looked_ < kInterval) return false;
  looked_ = now;
  std::vector<Signature> found = Look();
  if (found == known_) return false;
  known_ = std::move(found);
  return true;
}

std::vector<WatchedFiles::Signature> WatchedFiles::Look() const {
  std::vector<Signature> signatures;
  for (const std::string& path : paths_) {
    struct stat info = {};
    if (stat(path.c_str(), &info) != 0) info = {};
    signatures.emplace_back(info.st_dev, info.st_ino, info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
  }
  return signatures;
}

}  // namespace normd::base
