#include "client/cpp/src/retry.h"

#include <algorithm>

#include "client/cpp/src/status.h"

namespace normd::internal {

Attempts::Attempts(const RetryPolicy& policy, absl::Duration timeout, Runtime* runtime)
    : policy_(policy),
      timeout_(timeout),
      runtime_(runtime),
      start_(runtime->Now()),
      backoff_(std::min(policy.initial_backoff, policy.max_backoff)) {}

absl::Duration Attempts::Remaining() const { return timeout_ - (runtime_->Now() - start_); }

absl::Duration Attempts::Begin() {
  ++count_;
  return Remaining();
}

std::optional<absl::Duration> Attempts::PauseAfter(const grpc::Status& status) {
  if (count_ >= policy_.max_attempts) return std::nullopt;
  absl::Duration pause;
  if (const std::optional<absl::Duration> asked = RetryDelay(status)) {
    // No earlier than the server asks for, and not all of its clients at once.
    pause = *asked * (1 + 0.5 * runtime_->Uniform());
  } else if (status.error_code() == grpc::StatusCode::UNAVAILABLE || IsOfStoppingServer(status)) {
    pause = backoff_ * (0.5 + 0.5 * runtime_->Uniform());
    backoff_ = std::min(backoff_ * std::max(1.0, policy_.multiplier), policy_.max_backoff);
  } else {
    // An answer, or (DEADLINE_EXCEEDED) the end.
    return std::nullopt;
  }
  if (pause >= Remaining()) return std::nullopt;
  return pause;
}

}  // namespace normd::internal
