#include "client/cpp/src/file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace normd::internal {
namespace {

constexpr std::size_t kMostBytes = 1 << 20;

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path, absl::string_view whose) {
  const auto failure = [whose] {
    return absl::FailedPreconditionError(
        absl::StrCat(whose, " cannot be read: ", std::error_code(errno, std::generic_category()).message()));
  };
  // Not a FIFO that nobody writes to, forever.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return failure();
  std::string text;
  for (char piece[4096]; text.size() <= kMostBytes;) {
    const ssize_t size = read(fd, piece, sizeof(piece));
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) {
      absl::Status status = failure();
      close(fd);
      return status;
    }
    if (size == 0) break;
    text.append(piece, static_cast<std::size_t>(size));
  }
  close(fd);
  if (text.empty()) return absl::FailedPreconditionError(absl::StrCat(whose, " is empty"));
  if (text.size() > kMostBytes) {
    return absl::FailedPreconditionError(absl::StrCat(whose, " has more than ", kMostBytes, " bytes"));
  }
  return text;
}

}  // namespace normd::internal
