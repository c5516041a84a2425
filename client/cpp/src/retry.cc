#include "client/cpp/src/retry.h"

#include <algorithm>

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
  // Only UNAVAILABLE says that trying again may help. Everything else is an answer, or (DEADLINE_EXCEEDED) the end.
  if (status.error_code() != grpc::StatusCode::UNAVAILABLE || count_ >= policy_.max_attempts) return std::nullopt;
  const absl::Duration pause = backoff_ * (0.5 + 0.5 * runtime_->Uniform());
  if (pause >= Remaining()) return std::nullopt;
  backoff_ = std::min(backoff_ * std::max(1.0, policy_.multiplier), policy_.max_backoff);
  return pause;
}

}  // namespace normd::internal
