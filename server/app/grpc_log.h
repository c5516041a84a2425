#ifndef NORMD_SERVER_APP_GRPC_LOG_H_
#define NORMD_SERVER_APP_GRPC_LOG_H_

#include "server/app/logger.h"

namespace normd::app {

// Sends what the gRPC library logs, in a form of its own, to `logger`, which lives for ever. Its errors become
// warnings: what they mean for a call, the call's status says.
void SendGrpcLogTo(Logger* logger);

// Drops what the gRPC library logs.
void SilenceGrpcLog();

}  // namespace normd::app

#endif  // NORMD_SERVER_APP_GRPC_LOG_H_
