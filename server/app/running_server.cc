#include "server/app/running_server.h"

#include <grpc/grpc.h>
#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/server_builder.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/wire/socket_buffers.h"
#include "server/app/listen_address.h"
#include "server/app/port_credentials.h"
#include "server/app/security_log.h"
#include "server/base/cgroup.h"
#include "server/base/clock.h"

namespace normd::app {
namespace {

// The builder's own methods take only numbers and strings.
class SocketBuffers final : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments* arguments) override { wire::SetSocketBuffers(false, arguments); }
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>*) override {}
};

// The other half is for gRPC, the layers and the page cache.
int64_t DefaultMemoryBudget() {
  const int64_t machine = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  return std::min(machine, base::CgroupMemoryBytes("").value_or(machine)) / 2;
}

std::unique_ptr<shm::RegionRegistry> NewRegionRegistry(const ServerOptions& options) {
  if (!options.shared_memory) return nullptr;
  shm::RegionRegistryOptions limits;
  limits.max_bytes = options.max_shared_memory_bytes;
  return std::make_unique<shm::RegionRegistry>(limits);
}

// Of `wanted`, what a request alone in the server gets memory for: the message, its tensor and the result, these two in
// buffers of up to a quarter more.
int64_t FittingMessageBytes(int64_t wanted, int64_t budget_bytes) { return std::min(wanted, budget_bytes / 7 * 2); }

}  // namespace

RunningServer::RunningServer(const ServerOptions& options, Security security, std::unique_ptr<store::StateStore> store,
                             int cores, Logger* logger)
    : logger_(logger),
      security_(std::move(security)),
      observer_(security_.access.get(), logger, options.log_slow_calls_after),
      store_(std::move(store)),
      registry_(options.limits, base::Clock::System(), store_.get()),
      snapshots_(&registry_),
      regions_(NewRegionRegistry(options)),
      compute_thread_(static_cast<std::size_t>(options.max_waiting_calls)),
      buffers_(options.memory_budget_bytes > 0 ? options.memory_budget_bytes : DefaultMemoryBudget()),
      max_message_bytes_(FittingMessageBytes(options.max_message_bytes, buffers_.budget_bytes())),
      executor_(&compute_thread_, cores),
      layer_service_(&registry_, &observer_),
      snapshot_service_(&snapshots_, store::ScratchPrefix(options.store), &observer_),
      normalization_service_(&registry_, regions_.get(), &buffers_, &executor_, &observer_),
      open_inference_service_(&registry_, regions_.get(), options.open_inference_shared_memory, &buffers_, &executor_,
                              &observer_),
      shared_memory_service_(regions_.get(), &observer_),
      statistics_(
          {.server_version = NORMD_VERSION,
           .threads = cores,
           .calls = &observer_.statistics,
           .observer = &observer_,
           .registry = &registry_,
           .regions = regions_.get(),
           .compute_thread = &compute_thread_,
           .buffers = &buffers_,
           .executor = &executor_,
           .layer_service = &layer_service_,
           .access = security_.access.get(),
           .certificate_expires =
               [this] { return security_.tls == nullptr ? absl::InfiniteFuture() : security_.tls->expires(); }}),
      administration_(&statistics_, logger),
      admin_service_(&administration_, &observer_),
      health_service_({v1::AdminService::service_full_name(), v1::LayerService::service_full_name(),
                       v1::NormalizationService::service_full_name(), v1::SharedMemoryService::service_full_name(),
                       v1::SnapshotService::service_full_name(),
                       inference::GRPCInferenceService::service_full_name()}) {
  if (options.release_memory_after <= absl::ZeroDuration()) return;
  trimmer_ = std::make_unique<MemoryTrimmer>(options.release_memory_after, [this](absl::Duration unused) {
    // Asked first: what comes back later has to be come back for.
    const bool all = buffers_.in_use_bytes() == 0;
    buffers_.ReleaseKept(unused);
    // Holds up all who allocate.
    if (unused == absl::ZeroDuration()) malloc_trim(0);
    return all;
  });
  observer_.trimmer = trimmer_.get();
}

RunningServer::~RunningServer() {
  if (grpc_server_ != nullptr) Shutdown(absl::ZeroDuration());
}

absl::Status RunningServer::Load() {
  if (absl::Status status = registry_.Load(); !status.ok()) return status;
  return snapshots_.Load();
}

absl::Status RunningServer::ListenForMetrics(const ServerOptions& options) {
  if (options.metrics_listen.empty()) return absl::OkStatus();
  absl::StatusOr<HostPort> address = ParseHostPort(options.metrics_listen);
  if (!address.ok()) return absl::InvalidArgumentError(absl::StrCat("metrics-listen: ", address.status().message()));
  absl::StatusOr<std::unique_ptr<metrics::PrometheusEndpoint>> endpoint = metrics::PrometheusEndpoint::Listen(
      JoinHostPort(*address),
      [this, max_layers = options.metrics_max_layers] { return statistics_.Collect(max_layers); });
  if (!endpoint.ok()) {
    const absl::Status why = WhyNotTcp(*address);
    return absl::Status(why.code(), absl::StrCat("metrics-listen: ", why.message()));
  }
  metrics_endpoint_ = *std::move(endpoint);
  address->port = metrics_endpoint_->port();
  metrics_url_ = absl::StrCat("http://", JoinHostPort(*address), "/metrics");
  logger_->Log(LogLevel::kInfo, "metrics", {{"url", metrics_url_}});
  return absl::OkStatus();
}

absl::Status RunningServer::Listen(const ServerOptions& options) {
  grpc::ServerBuilder builder;
  // By default a second server would share the port, and each would get some of the calls.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.SetOption(std::make_unique<SocketBuffers>());
  builder.SetMaxReceiveMessageSize(static_cast<int>(max_message_bytes_));
  builder.SetMaxSendMessageSize(-1);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams_per_connection);
  const OnRefusedCall on_refused = [log = std::make_shared<RefusalLog>(logger_, base::Clock::System())](
                                       absl::string_view path, const absl::Status& status) { log->Add(path, status); };
  HostPort tcp;
  int tcp_port = 0;
  if (!options.listen.empty()) {
    tcp = *ParseHostPort(options.listen);
    builder.AddListeningPort(JoinHostPort(tcp),
                             MakePortCredentials(security_.tls.get(), security_.access.get(), on_refused), &tcp_port);
  }
  int unix_port = 0;
  if (!options.unix_socket.empty()) {
    // Before gRPC looks: it would take the path away from a server that lives.
    if (absl::Status status = RemoveStaleSocket(options.unix_socket); !status.ok()) return status;
    builder.AddListeningPort(absl::StrCat("unix:", options.unix_socket),
                             MakePortCredentials(nullptr, security_.access.get(), on_refused), &unix_port);
  }
  builder.RegisterService(&layer_service_);
  builder.RegisterService(&normalization_service_);
  builder.RegisterService(&snapshot_service_);
  builder.RegisterService(&open_inference_service_);
  builder.RegisterService(&shared_memory_service_);
  builder.RegisterService(&admin_service_);
  builder.RegisterService(&health_service_);
  grpc_server_ = builder.BuildAndStart();
  if (grpc_server_ == nullptr) {
    // gRPC stops at the first address that fails.
    const bool tcp_failed = !options.listen.empty() && tcp_port == 0;
    return tcp_failed ? WhyNotTcp(tcp) : WhyNotUnix(options.unix_socket);
  }
  if (!options.listen.empty()) addresses_.push_back(JoinHostPort({tcp.host, tcp_port}));
  if (!options.unix_socket.empty()) addresses_.push_back(absl::StrCat("unix:", options.unix_socket));
  return absl::OkStatus();
}

// gRPC lets go of a connection when its client has answered a ping, and gRPC for Python reads one without calls only
// every 5 s. So connections are closed once no call has run for a while, in which those who read have heard that they
// should go.
void RunningServer::CloseIdleConnections(const std::future<void>& stopped) {
  constexpr std::chrono::milliseconds kLook(20);
  constexpr int kQuietLooks = 10;
  for (int quiet = 0; quiet < kQuietLooks;) {
    if (stopped.wait_for(kLook) == std::future_status::ready) return;
    // Answers that are on their way hold their buffers.
    const bool busy = observer_.calls_in_flight() > 0 || buffers_.in_use_bytes() > 0;
    quiet = busy ? 0 : quiet + 1;
  }
  grpc_server_cancel_all_calls(grpc_server_->c_server());
}

void RunningServer::Shutdown(absl::Duration drain_timeout) {
  logger_->Log(LogLevel::kInfo, "stopping", {{"drain_timeout_s", absl::ToDoubleSeconds(drain_timeout)}});
  health_service_.Shutdown();
  layer_service_.StopStreams();
  normalization_service_.StopStreams();
  open_inference_service_.Stop();
  shared_memory_service_.Shutdown();
  std::promise<void> stopped;
  std::thread closer([this, stopped = stopped.get_future()] { CloseIdleConnections(stopped); });
  grpc_server_->Shutdown(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(drain_timeout));
  stopped.set_value();
  closer.join();
  grpc_server_->Wait();
  grpc_server_.reset();  // Waits for handlers that still run.
  logger_->Log(LogLevel::kInfo, "stopped");
}

}  // namespace normd::app
