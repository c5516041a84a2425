#include "server/store/state_store.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "server/layer/layer_error.h"

namespace normd::store {
namespace {

constexpr absl::string_view kUnknown = "normd/outcome-unknown";
constexpr absl::string_view kConflict = "normd/conflict";

}  // namespace

absl::Status OutcomeUnknownError(absl::string_view cause) {
  absl::Status status = absl::UnavailableError(cause);
  status.SetPayload(kUnknown, absl::Cord());
  return status;
}

bool IsOutcomeUnknown(const absl::Status& status) { return status.GetPayload(kUnknown).has_value(); }

absl::Status ConflictError(absl::string_view cause, const std::vector<std::string>& uids) {
  absl::Status status = absl::AbortedError(cause);
  status.SetPayload(kConflict, absl::Cord(absl::StrJoin(uids, "\n")));
  return status;
}

bool IsConflict(const absl::Status& status) { return status.GetPayload(kConflict).has_value(); }

std::vector<std::string> ConflictUids(const absl::Status& status) {
  const auto uids = status.GetPayload(kConflict);
  if (!uids.has_value()) return {};
  return absl::StrSplit(std::string(*uids), '\n');
}

absl::Status WriteFailure(const absl::Status& status) {
  return layer::WithPrefix(
      IsOutcomeUnknown(status) ? "may have happened, retry with the same request_id: " : "nothing has changed: ",
      status);
}

absl::StatusOr<std::unique_ptr<BackupCopy>> StateStore::StartBackup(const std::string& /*path*/) {
  return absl::FailedPreconditionError("the server keeps its state in memory only, so there is nothing to back up");
}

}  // namespace normd::store
