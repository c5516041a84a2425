#ifndef NORMD_CLIENT_CPP_SRC_BACKUP_H_
#define NORMD_CLIENT_CPP_SRC_BACKUP_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cpp/src/connection.h"
#include "normd/client.h"

// Client::Backup and Client::RestoreBackup. They block.
namespace normd::internal {

absl::StatusOr<int64_t> Backup(Connection* connection, const BackupSink& sink, const CallOptions& options);
absl::StatusOr<int64_t> RestoreBackup(Connection* connection, const BackupSource& source,
                                      const RestoreSelection& selection, const CallOptions& options);

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_BACKUP_H_
