#include "server/app/call_log.h"

#include "absl/status/status.h"

namespace normd::app {

void CallLog::OnCall(const service::CallRecord& record) {
  const absl::StatusCode code = record.status.code();
  const bool our_fault = code == absl::StatusCode::kInternal || code == absl::StatusCode::kUnknown;
  const LogLevel level = our_fault ? LogLevel::kError : LogLevel::kDebug;
  if (!logger_->Enabled(level)) return;
  logger_->Log(level, "call",
               {{"method", record.method},
                {"layer", record.layer},
                {"code", absl::StatusCodeToString(code)},
                {"error", record.status.message()},
                {"duration_ms", absl::ToDoubleMilliseconds(record.duration)},
                {"request_bytes", record.request_bytes},
                {"response_bytes", record.response_bytes},
                {"peer", record.context.peer()}});
}

}  // namespace normd::app
