#ifndef NORMD_SERVER_APP_CALL_LOG_H_
#define NORMD_SERVER_APP_CALL_LOG_H_

#include "absl/time/time.h"
#include "server/access/access_control.h"
#include "server/app/logger.h"
#include "server/service/unary_call.h"

namespace normd::app {

// The access log: a line per call at level debug, at level warn where it took long, and at level error where the server
// itself is at fault (INTERNAL, UNKNOWN). It has the trace and span of the caller, if the call's metadata holds a valid
// `traceparent`. Thread-safe.
class CallLog {
 public:
  // A call that takes longer than `slow_after` is slow; watching streams never are. `access`, which may be null, knows
  // who makes it. It and `logger` outlive the log.
  CallLog(Logger* logger, absl::Duration slow_after, const access::AccessControl* access)
      : logger_(logger), slow_after_(slow_after), access_(access) {}

  void OnCall(const service::CallRecord& record);

 private:
  Logger* const logger_;
  const absl::Duration slow_after_;
  const access::AccessControl* const access_;
};

}  // namespace normd::app

#endif  // NORMD_SERVER_APP_CALL_LOG_H_
