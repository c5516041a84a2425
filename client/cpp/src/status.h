#ifndef NORMD_CLIENT_CPP_SRC_STATUS_H_
#define NORMD_CLIENT_CPP_SRC_STATUS_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "grpcpp/support/status.h"

namespace normd::internal {

// What the text of a failed call tells beside the server's own words.
struct CallFacts {
  absl::string_view target;
  int attempts = 0;
  absl::Duration timeout;
  // Empty when the call has none.
  absl::string_view request_id;
};

// The same code and text. Where the server has not said anything itself (UNAVAILABLE, DEADLINE_EXCEEDED), the text
// names the target, the attempts or the timeout, and the request_id that a repetition needs. google.rpc.Status details
// become the payload "type.googleapis.com/google.rpc.Status", serialized as they came.
absl::Status ToAbslStatus(const grpc::Status& status, const CallFacts& facts);

// What gRPC's server, and not ours, answers to a call that comes while it stops. A call that its client cancels has the
// same code and text, so this is for calls that nobody cancels: all of the SDK's but streams.
inline bool IsOfStoppingServer(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::CANCELLED && status.error_message() == "CANCELLED";
}

// How long the server asks to wait before the call is tried again: the google.rpc.RetryInfo of a RESOURCE_EXHAUSTED.
std::optional<absl::Duration> RetryDelay(const grpc::Status& status);

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_STATUS_H_
