#ifndef NORMD_CLIENT_CPP_SRC_RETRY_H_
#define NORMD_CLIENT_CPP_SRC_RETRY_H_

#include <optional>

#include "absl/time/time.h"
#include "client/cpp/src/runtime.h"
#include "grpcpp/support/status.h"
#include "normd/options.h"

namespace normd::internal {

// The attempts of one call: how much of its time is left and whether it may be tried again. Not thread-safe.
class Attempts {
 public:
  // Starts the clock. `runtime` must outlive this.
  Attempts(const RetryPolicy& policy, absl::Duration timeout, Runtime* runtime);

  // Counts an attempt and returns what is left of the timeout; may be <= 0, or infinite.
  absl::Duration Begin();
  // How long to pause before another attempt now that one ended with `status`. Nothing: do not try again, since the
  // status is final, the attempts are used up, or the timeout would pass during the pause.
  std::optional<absl::Duration> PauseAfter(const grpc::Status& status);

  int count() const { return count_; }
  absl::Duration timeout() const { return timeout_; }

 private:
  absl::Duration Remaining() const;

  const RetryPolicy policy_;
  const absl::Duration timeout_;
  Runtime* const runtime_;
  const absl::Duration start_;
  absl::Duration backoff_;
  int count_ = 0;
};

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_RETRY_H_
