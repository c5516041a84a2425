#include "server/app/server.h"

#include <grpc/grpc.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/wire/loopback.h"
#include "server/app/listen_address.h"
#include "server/app/running_server.h"
#include "server/app/security_log.h"
#include "server/base/clock.h"
#include "server/kernels/parallelism.h"

namespace normd::app {
namespace {

// What gRPC keeps per process, to be set before the first server.
void PrepareGrpc() {
  static const bool once = [] {
    // Holds the library for good. When its last user goes it joins a thread that polls for up to 10 s if large answers
    // were sent shortly before (1.51): every stop after some traffic could take so much longer than the drain.
    grpc_init();
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    return true;
  }();
  static_cast<void>(once);
}

absl::StatusOr<Security> OpenSecurity(const ServerOptions& options, Logger* logger) {
  Security security;
  if (options.tls.enabled()) {
    absl::StatusOr<std::unique_ptr<TlsFiles>> tls =
        TlsFiles::Open(options.tls, base::Clock::System(),
                       [logger](const absl::StatusOr<TlsCertificates>& files) { LogCertificates(files, logger); });
    if (!tls.ok()) return tls.status();
    security.tls = *std::move(tls);
    logger->Log(LogLevel::kInfo, "certificates",
                {{"expires", absl::FormatTime(security.tls->expires(), absl::UTCTimeZone())}});
  }
  if (!options.access.file.empty() || options.access.calls_per_second > 0) {
    absl::StatusOr<std::unique_ptr<access::AccessControl>> access = access::AccessControl::Open(
        options.access, base::Clock::System(), [logger](const absl::Status& status) { LogAccessFile(status, logger); });
    if (!access.ok()) {
      return absl::Status(access.status().code(), absl::StrCat("access-file: ", access.status().message()));
    }
    security.access = *std::move(access);
  }
  return security;
}

}  // namespace

absl::Status CheckListening(const ServerOptions& options) {
  if (options.listen.empty()) {
    if (!options.unix_socket.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError("nothing to listen on: listen is empty and unix-socket is not set");
  }
  absl::StatusOr<HostPort> address = ParseHostPort(options.listen);
  if (!address.ok()) return absl::InvalidArgumentError(absl::StrCat("listen: ", address.status().message()));
  if (options.insecure || wire::IsLoopbackHost(address->host)) return absl::OkStatus();
  const bool encrypts = options.tls.enabled();
  const bool identifies = !options.access.file.empty() || !options.tls.client_ca_file.empty();
  if (encrypts && identifies) return absl::OkStatus();
  const absl::string_view danger = identifies ? "tokens would travel there for all to read: want tls-cert and tls-key"
                                              : "whoever reaches it may read and change every layer: want tls-cert and "
                                                "tls-key with access-file or tls-client-ca";
  return absl::InvalidArgumentError(
      absl::StrCat("listen: ", JoinHostPort(*address), " is not loopback, and ", danger,
                   ", or 127.0.0.1, [::1], localhost or unix-socket, or --insecure if the network keeps others out"));
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options, Logger* logger) {
  if (absl::Status status = CheckListening(options); !status.ok()) return status;
  PrepareGrpc();
  const int cores = options.threads > 0 ? options.threads : kernels::AvailableCores();
  const absl::Time start = absl::Now();
  absl::StatusOr<Security> security = OpenSecurity(options, logger);
  if (!security.ok()) return security.status();
  store::StoreOptions store_options = options.store;
  store_options.warn = [logger](const std::string& what) { logger->Log(LogLevel::kWarn, what); };
  absl::StatusOr<std::unique_ptr<store::StateStore>> store = store::OpenStore(store_options);
  if (!store.ok()) return store.status();
  auto server = std::make_unique<RunningServer>(options, *std::move(security), *std::move(store), cores, logger);
  if (absl::Status status = server->Load(); !status.ok()) return status;
  const absl::Duration load_time = absl::Now() - start;
  if (absl::Status status = server->ListenForMetrics(options); !status.ok()) return status;
  if (absl::Status status = server->Listen(options); !status.ok()) return status;
  if (server->max_message_bytes() < options.max_message_bytes) {
    logger->Log(LogLevel::kWarn, "the memory budget has no room for larger requests",
                {{"max_message_bytes", server->max_message_bytes()},
                 {"memory_budget_bytes", server->buffers().budget_bytes()}});
  }
  logger->Log(LogLevel::kInfo, "state",
              {{"store", store::LocationWithoutPassword(options.store.location)},
               {"layers", server->num_layers()},
               {"load_ms", absl::ToDoubleMilliseconds(load_time)}});
  for (const std::string& address : server->addresses()) {
    const bool is_unix = absl::StartsWith(address, "unix:");
    logger->Log(LogLevel::kInfo, "listening",
                {{"address", address},
                 {"threads", cores},
                 {"tls", is_unix || !options.tls.enabled()    ? "no"
                         : options.tls.client_ca_file.empty() ? "yes"
                                                              : "mutual"},
                 {"access", options.access.file.empty() ? "everybody" : "by access file"}});
  }
  return server;
}

}  // namespace normd::app
