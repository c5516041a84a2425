#ifndef NORMD_SERVER_APP_PORT_CREDENTIALS_H_
#define NORMD_SERVER_APP_PORT_CREDENTIALS_H_

#include <grpcpp/security/server_credentials.h>

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/access/access_control.h"
#include "server/app/tls_files.h"

namespace normd::app {

// Is told, by one of gRPC's threads, that a call was turned away before its request was read.
using OnRefusedCall = std::function<void(absl::string_view path, const absl::Status& status)>;

// What a port asks of those who come: TLS, with the certificates as they stand in `tls` at each handshake (null: none);
// and that `access`, if it identifies callers, knows them, and that they have the role that their call takes for at
// least one layer. Others get UNAUTHENTICATED or PERMISSION_DENIED before their request is read. All outlive the server
// that has the port; both may be null.
std::shared_ptr<grpc::ServerCredentials> MakePortCredentials(TlsFiles* tls, const access::AccessControl* access,
                                                             OnRefusedCall on_refused);

}  // namespace normd::app

#endif  // NORMD_SERVER_APP_PORT_CREDENTIALS_H_
