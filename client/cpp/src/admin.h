#ifndef NORMD_CLIENT_CPP_SRC_ADMIN_H_
#define NORMD_CLIENT_CPP_SRC_ADMIN_H_

#include "absl/status/statusor.h"
#include "client/cpp/src/connection.h"
#include "normd/admin.h"

// Client::GetStatistics, GetLogLevel and SetLogLevel.
namespace normd::internal {

absl::StatusOr<ServerStatistics> GetStatistics(Connection* connection, int max_layers, const CallOptions& options);
absl::StatusOr<LogLevel> GetLogLevel(Connection* connection, const CallOptions& options);
absl::StatusOr<LogLevel> SetLogLevel(Connection* connection, LogLevel level, const CallOptions& options);

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_ADMIN_H_
