#include "server/service/call_access.h"

#include <grpc/grpc_security_constants.h>
#include <grpcpp/security/auth_context.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/service/status_conversion.h"

namespace normd::service {
namespace {

using access::Role;

// In the order of the protos.
const absl::flat_hash_map<absl::string_view, Role>& Roles() {
  static const auto& roles = *new absl::flat_hash_map<absl::string_view, Role>{
      // LayerService.
      {"CreateLayer", Role::kTrain},
      {"GetLayer", Role::kRead},
      {"ListLayers", Role::kRead},
      {"UpdateLayer", Role::kAdmin},
      {"DeleteLayer", Role::kAdmin},
      {"ResetStatistics", Role::kTrain},
      {"SetState", Role::kTrain},
      {"ForkLayer", Role::kTrain},
      {"WatchLayers", Role::kRead},
      // NormalizationService; calls on the stream Steps take the roles of their own.
      {"TrainStep", Role::kTrain},
      {"Infer", Role::kRead},
      {"Denormalize", Role::kRead},
      {"Backward", Role::kTrain},
      {"MergeMoments", Role::kTrain},
      {"Steps", Role::kRead},
      {"InferStream", Role::kRead},
      {"TrainStepStream", Role::kTrain},
      // SnapshotService.
      {"CreateSnapshot", Role::kAdmin},
      {"ListSnapshots", Role::kAdmin},
      {"RestoreSnapshot", Role::kAdmin},
      {"DeleteSnapshot", Role::kAdmin},
      {"Backup", Role::kAdmin},
      {"RestoreBackup", Role::kAdmin},
      // SharedMemoryService.
      {"OpenSession", Role::kRead},
      {"RegisterRegion", Role::kRead},
      {"UnregisterRegion", Role::kRead},
      {"ListRegions", Role::kRead},
      // AdminService.
      {"GetStatistics", Role::kRead},
      {"GetLogLevel", Role::kAdmin},
      {"SetLogLevel", Role::kAdmin},
      // GRPCInferenceService.
      {"ModelReady", Role::kRead},
      {"ServerMetadata", Role::kRead},
      {"ModelMetadata", Role::kRead},
      {"ModelConfig", Role::kRead},
      {"ModelInfer", Role::kRead},
      {"ModelStreamInfer", Role::kRead},
      {"ModelStatistics", Role::kRead},
      {"RepositoryIndex", Role::kRead},
      {"SystemSharedMemoryStatus", Role::kRead},
      {"SystemSharedMemoryRegister", Role::kRead},
      {"SystemSharedMemoryUnregister", Role::kRead},
  };
  return roles;
}

// Of the certificate that the connection has shown, if any.
std::vector<std::string> CertificateNames(const grpc::ServerContextBase& context) {
  std::vector<std::string> names;
  const std::shared_ptr<const grpc::AuthContext> auth = context.auth_context();
  if (auth == nullptr) return names;
  for (const char* property : {GRPC_X509_SAN_PROPERTY_NAME, GRPC_X509_CN_PROPERTY_NAME}) {
    for (const grpc::string_ref& name : auth->FindPropertyValues(property)) {
      names.emplace_back(name.data(), name.size());
    }
  }
  return names;
}

}  // namespace

bool IsOpenToAll(absl::string_view path) {
  return absl::StartsWith(path, "/grpc.health.v1.Health/") || path == "/inference.GRPCInferenceService/ServerLive" ||
         path == "/inference.GRPCInferenceService/ServerReady";
}

std::optional<access::Role> RoleOf(absl::string_view method) {
  const std::size_t end = method.find_last_of("./");
  if (end != absl::string_view::npos) method.remove_prefix(end + 1);
  const auto found = Roles().find(method);
  return found == Roles().end() ? std::nullopt : std::optional(found->second);
}

access::Caller CallerOf(const grpc::ServerContextBase& context, const access::AccessControl* control) {
  if (control == nullptr) return {};
  if (!control->identifies()) return {control, {}};
  access::Credentials credentials;
  const auto [first, end] = context.client_metadata().equal_range("authorization");
  for (auto value = first; value != end; ++value) {
    credentials.authorizations.emplace_back(value->second.data(), value->second.size());
  }
  if (first == end) credentials.certificate_names = CertificateNames(context);
  return {control, credentials};
}

absl::Status TakeCall(const access::Caller& caller) {
  const absl::Duration wait = caller.TakeCall();
  if (wait == absl::ZeroDuration()) return absl::OkStatus();
  const std::string name = caller.name();
  return RetryLaterError(
      absl::StrCat(name.empty() ? std::string("more calls come") : absl::StrCat("'", name, "' makes more calls"),
                   " than the server's rate limit allows; the next may come in ", absl::FormatDuration(wait)),
      wait);
}

absl::Status CheckCall(const access::Caller& caller, access::Role role, absl::string_view layer) {
  if (absl::Status status = TakeCall(caller); !status.ok()) return status;
  return caller.Check(role, layer);
}

}  // namespace normd::service
