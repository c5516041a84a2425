#ifndef NORMD_SERVER_SERVICE_CALL_ACCESS_H_
#define NORMD_SERVER_SERVICE_CALL_ACCESS_H_

#include <grpcpp/server_context.h>

#include <optional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/access/access_control.h"
#include "server/access/caller.h"
#include "server/access/role.h"

// Who may make which call. A method takes a role: whoever has it for no layer is turned away before his request is read
// (server/app/port_credentials.h). For which layers he has it is checked when the request's layers are known.
namespace normd::service {

// Whether a method answers everybody: health checks. `path` as in "/normd.v1.NormalizationService/Infer".
bool IsOpenToAll(absl::string_view path);

// The role that a method takes, by its path or its last part; absent: there is no such method here, or it concerns no
// layer (reflection), and takes any role. ModelInfer, whose parameters may ask for training, takes kRead or kTrain.
std::optional<access::Role> RoleOf(absl::string_view method);

// Whoever makes the call. `control` may be null: somebody who may do everything.
access::Caller CallerOf(const grpc::ServerContextBase& context, const access::AccessControl* control);

// RESOURCE_EXHAUSTED with a hint when to come again: he makes more calls than he may.
absl::Status TakeCall(const access::Caller& caller);

// The same for his next call, and UNAUTHENTICATED or PERMISSION_DENIED: he does not have `role` for `layer`.
absl::Status CheckCall(const access::Caller& caller, access::Role role, absl::string_view layer);

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_CALL_ACCESS_H_
