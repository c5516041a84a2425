#include "client/cpp/src/status.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

namespace normd::internal {
namespace {

std::string Text(const grpc::Status& status, const CallFacts& facts) {
  const std::string repeat =
      facts.request_id.empty() ? "" : absl::StrCat(" (repeat with request_id '", facts.request_id, "')");
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE) {
    return absl::StrCat("normd server at '", facts.target, "' is unavailable, ", facts.attempts,
                        facts.attempts == 1 ? " attempt: " : " attempts: ", status.error_message(), repeat);
  }
  if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
    return absl::StrCat("no answer from the normd server at '", facts.target, "' within ",
                        absl::FormatDuration(facts.timeout), ": ", status.error_message(), repeat);
  }
  return status.error_message();
}

}  // namespace

absl::Status ToAbslStatus(const grpc::Status& status, const CallFacts& facts) {
  if (status.ok()) return absl::OkStatus();
  // Both follow google.rpc.Code.
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), Text(status, facts));
  if (!status.error_details().empty()) {
    result.SetPayload("type.googleapis.com/google.rpc.Status", absl::Cord(status.error_details()));
  }
  return result;
}

}  // namespace normd::internal
