#include "server/app/security_log.h"

#include "absl/strings/str_cat.h"

namespace normd::app {
namespace {

constexpr std::size_t kMaxPathBytes = 200;
constexpr absl::Duration kInterval = absl::Seconds(1);

}  // namespace

void LogCertificates(const absl::StatusOr<TlsCertificates>& files, Logger* logger) {
  if (files.ok()) {
    logger->Log(LogLevel::kInfo, "certificates", {{"expires", absl::FormatTime(files->expires, absl::UTCTimeZone())}});
  } else {
    logger->Log(LogLevel::kWarn, "the certificates that were in use stay so", {{"error", files.status().message()}});
  }
}

void LogAccessFile(const absl::Status& status, Logger* logger) {
  if (status.ok()) {
    logger->Log(LogLevel::kInfo, "access file read");
  } else {
    logger->Log(LogLevel::kWarn, "the access file that was in force stays so", {{"error", status.message()}});
  }
}

void RefusalLog::Add(absl::string_view path, const absl::Status& status) {
  int64_t calls = 0;
  {
    const base::MutexLock lock(&mutex_);
    ++since_;
    const absl::Duration now = clock_.Elapsed();
    if (now - logged_ < kInterval) return;
    logged_ = now;
    calls = since_;
    since_ = 0;
  }
  logger_->Log(LogLevel::kWarn, "calls refused",
               {{"calls", calls},
                {"method", path.substr(0, kMaxPathBytes)},
                {"code", absl::StatusCodeToString(status.code())},
                {"error", status.message()}});
}

}  // namespace normd::app
