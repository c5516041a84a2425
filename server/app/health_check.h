#ifndef NORMD_SERVER_APP_HEALTH_CHECK_H_
#define NORMD_SERVER_APP_HEALTH_CHECK_H_

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/app/tls_files.h"

namespace normd::app {

// Asks the server at `address` ("127.0.0.1:50051", "unix:/run/normd.sock") through grpc.health.v1 whether it serves.
// OK: it does. UNAVAILABLE: it says that it does not. Any other status is what happened to the call. With `tls` set,
// and unless the address is a Unix socket, over TLS: whoever answers is believed, since nothing secret is said, and to
// a server that wants clients' certificates its own is shown.
absl::Status CheckHealth(const std::string& address, const TlsOptions& tls, absl::Duration timeout);

}  // namespace normd::app

#endif  // NORMD_SERVER_APP_HEALTH_CHECK_H_
