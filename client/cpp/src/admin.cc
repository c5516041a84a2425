#include "client/cpp/src/admin.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "normd/v1/admin_service.pb.h"

namespace normd::internal {
namespace {

// LOG_LEVEL_UNSPECIFIED comes first.
v1::LogLevel ToProto(LogLevel level) { return static_cast<v1::LogLevel>(static_cast<int>(level) + 1); }

absl::StatusOr<LogLevel> FromProto(v1::LogLevel level) {
  if (level >= v1::LOG_LEVEL_DEBUG && level <= v1::LOG_LEVEL_ERROR) return static_cast<LogLevel>(level - 1);
  return absl::InternalError(absl::StrCat("the server's log level is ", static_cast<int>(level)));
}

DurationDistribution FromProto(const v1::DurationDistribution& proto) {
  return {.bounds_seconds = {proto.bounds_seconds().begin(), proto.bounds_seconds().end()},
          .counts = {proto.counts().begin(), proto.counts().end()},
          .sum_seconds = proto.sum_seconds()};
}

MethodStatistics FromProto(const v1::MethodStatistics& proto) {
  MethodStatistics out{.method = proto.method(),
                       .codes = {},
                       .duration = FromProto(proto.duration()),
                       .request_bytes = proto.request_bytes(),
                       .response_bytes = proto.response_bytes()};
  for (const v1::CodeCount& code : proto.codes()) out.codes.push_back({code.code(), code.count()});
  return out;
}

LayerStatistics FromProto(const v1::LayerStatistics& proto) {
  LayerStatistics out{.name = proto.name(),
                      .version = proto.version(),
                      .num_batches_tracked = proto.num_batches_tracked(),
                      .folds = proto.folds(),
                      .rejected_batches = proto.rejected_batches(),
                      .mean_drift = {},
                      .variance_drift = {}};
  if (proto.has_mean_drift()) out.mean_drift = proto.mean_drift();
  if (proto.has_variance_drift()) out.variance_drift = proto.variance_drift();
  return out;
}

ServerStatistics FromProto(const v1::ServerStatistics& proto) {
  ServerStatistics out;
  out.server_version = proto.server_version();
  out.instruction_set = proto.instruction_set();
  out.uptime_seconds = proto.uptime_seconds();
  for (const v1::MethodStatistics& method : proto.methods()) out.methods.push_back(FromProto(method));
  out.calls_in_flight = proto.calls_in_flight();
  out.watchers = proto.watchers();
  const v1::ComputeStatistics& compute = proto.compute();
  out.compute = {.waiting_calls = compute.waiting_calls(),
                 .max_waiting_calls = compute.max_waiting_calls(),
                 .refused_for_queue = compute.refused_for_queue(),
                 .refused_for_memory = compute.refused_for_memory(),
                 .threads = compute.threads()};
  const v1::BufferStatistics& buffers = proto.buffers();
  out.buffers = {.in_use_bytes = buffers.in_use_bytes(),
                 .kept_bytes = buffers.kept_bytes(),
                 .peak_bytes = buffers.peak_bytes(),
                 .budget_bytes = buffers.budget_bytes()};
  const v1::ProcessStatistics& process = proto.process();
  out.process = {.resident_bytes = process.resident_bytes(),
                 .virtual_bytes = process.virtual_bytes(),
                 .cpu_seconds = process.cpu_seconds(),
                 .open_fds = process.open_fds(),
                 .max_fds = process.max_fds(),
                 .start_time_seconds = process.start_time_seconds()};
  const v1::StoreStatistics& store = proto.store();
  out.store = {.transactions = store.transactions(),
               .updates = store.updates(),
               .errors = store.errors(),
               .conflicts = store.conflicts(),
               .commit_duration = FromProto(store.commit_duration())};
  const v1::SharedMemoryStatistics& shared_memory = proto.shared_memory();
  out.shared_memory = {.sessions = shared_memory.sessions(),
                       .regions = shared_memory.regions(),
                       .mapped_bytes = shared_memory.mapped_bytes()};
  out.num_layers = proto.num_layers();
  out.folds = proto.folds();
  out.rejected_batches = proto.rejected_batches();
  out.replays = proto.replays();
  for (const v1::LayerStatistics& layer : proto.layers()) out.layers.push_back(FromProto(layer));
  return out;
}

}  // namespace

absl::StatusOr<ServerStatistics> GetStatistics(Connection* connection, int max_layers, const CallOptions& options) {
  v1::GetStatisticsRequest request;
  request.set_max_layers(max_layers);
  absl::StatusOr<v1::GetStatisticsResponse> response = connection->Call<v1::GetStatisticsResponse>(request, options);
  if (!response.ok()) return response.status();
  return FromProto(response->statistics());
}

absl::StatusOr<LogLevel> GetLogLevel(Connection* connection, const CallOptions& options) {
  absl::StatusOr<v1::GetLogLevelResponse> response =
      connection->Call<v1::GetLogLevelResponse>(v1::GetLogLevelRequest(), options);
  if (!response.ok()) return response.status();
  return FromProto(response->level());
}

absl::StatusOr<LogLevel> SetLogLevel(Connection* connection, LogLevel level, const CallOptions& options) {
  v1::SetLogLevelRequest request;
  request.set_level(ToProto(level));
  absl::StatusOr<v1::SetLogLevelResponse> response = connection->Call<v1::SetLogLevelResponse>(request, options);
  if (!response.ok()) return response.status();
  return FromProto(response->previous_level());
}

}  // namespace normd::internal
