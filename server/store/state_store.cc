#include "server/store/state_store.h"

namespace normd::store {

absl::StatusOr<std::unique_ptr<BackupCopy>> StateStore::StartBackup(const std::string& /*path*/) {
  return absl::FailedPreconditionError("the server keeps its state in memory only, so there is nothing to back up");
}

}  // namespace normd::store
