#ifndef NORMD_SERVER_APP_SECURITY_LOG_H_
#define NORMD_SERVER_APP_SECURITY_LOG_H_

#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/app/logger.h"
#include "server/app/tls_files.h"
#include "server/base/clock.h"
#include "server/base/mutex.h"

// What the log says of certificates, tokens and those who have none. Nothing secret.
namespace normd::app {

// The files of certificates were read again, or not.
void LogCertificates(const absl::StatusOr<TlsCertificates>& files, Logger* logger);
// The access file was read again, or not.
void LogAccessFile(const absl::Status& status, Logger* logger);

// Calls that were turned away, at level warn: at most a line a second, which says how many there were since the one
// before. Thread-safe.
class RefusalLog {
 public:
  // Both outlive this.
  RefusalLog(Logger* logger, const base::Clock& clock) : logger_(logger), clock_(clock) {}

  // `path` is that of the call, as it came.
  void Add(absl::string_view path, const absl::Status& status);

 private:
  Logger* const logger_;
  const base::Clock& clock_;
  base::Mutex mutex_;
  absl::Duration logged_ ABSL_GUARDED_BY(mutex_) = -absl::InfiniteDuration();
  int64_t since_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace normd::app

#endif  // NORMD_SERVER_APP_SECURITY_LOG_H_
