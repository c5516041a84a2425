#ifndef NORMD_SERVER_APP_CALL_LOG_H_
#define NORMD_SERVER_APP_CALL_LOG_H_

#include "server/app/logger.h"
#include "server/service/unary_call.h"

namespace normd::app {

// The access log: a line per call at level debug, and at level error where the server itself is at fault (INTERNAL,
// UNKNOWN).
class CallLog final : public service::CallObserver {
 public:
  // `logger` outlives the log.
  explicit CallLog(Logger* logger) : logger_(logger) {}

  void OnCall(const service::CallRecord& record) override;

 private:
  Logger* const logger_;
};

}  // namespace normd::app

#endif  // NORMD_SERVER_APP_CALL_LOG_H_
