#ifndef NORMD_SERVER_BASE_WATCHED_FILES_H_
#define NORMD_SERVER_BASE_WATCHED_FILES_H_

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/base/clock.h"
#include "server/base/mutex.h"

namespace normd::base {

// The bytes of a file. NOT_FOUND or another status that names the file and the system's reason.
absl::StatusOr<std::string> ReadFile(const std::string& path);

// Files that somebody may replace or write to while the process runs. Follows links, so that what Kubernetes does with
// mounted secrets is noticed. Thread-safe.
class WatchedFiles {
 public:
  // How often it looks at most.
  static constexpr absl::Duration kInterval = absl::Seconds(1);

  // `clock` outlives this. What the files are now counts as known.
  WatchedFiles(std::vector<std::string> paths, const Clock& clock);

  // Whether any is another than when this was last true, or has come or gone. Whoever gets that has to read them: it is
  // said once.
  bool Changed();

 private:
  // Device, inode, size and time of the last change; zeros: there is none.
  using Signature = std::tuple<uint64_t, uint64_t, int64_t, int64_t, int64_t>;

  std::vector<Signature> Look() const;

  const std::vector<std::string> paths_;
  const Clock& clock_;
  Mutex mutex_;
  absl::Duration looked_ ABSL_GUARDED_BY(mutex_);
  std::vector<Signature> known_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace normd::base

#endif  // NORMD_SERVER_BASE_WATCHED_FILES_H_
