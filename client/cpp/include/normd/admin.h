#ifndef NORMD_ADMIN_H_
#define NORMD_ADMIN_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

// What a server tells those who run it: Client::GetStatistics and Client::SetLogLevel. The fields are those of
// proto/normd/v1/admin_service.proto, which says what each counts; counters start at 0 with the server.
namespace normd {

// A histogram of durations.
struct DurationDistribution {
  // Ascending upper bounds of all buckets but the last, in seconds.
  std::vector<double> bounds_seconds;
  // One more than there are bounds.
  std::vector<int64_t> counts;
  double sum_seconds = 0;
};

struct CodeCount {
  // A google.rpc.Code, as in absl::StatusCode.
  int code = 0;
  int64_t count = 0;
};

struct MethodStatistics {
  std::string method;
  std::vector<CodeCount> codes;
  DurationDistribution duration;
  int64_t request_bytes = 0;
  int64_t response_bytes = 0;
};

struct ComputeStatistics {
  int64_t waiting_calls = 0;
  int64_t max_waiting_calls = 0;
  int64_t refused_for_queue = 0;
  int64_t refused_for_memory = 0;
  int threads = 0;
};

struct BufferStatistics {
  int64_t in_use_bytes = 0;
  int64_t kept_bytes = 0;
  int64_t peak_bytes = 0;
  int64_t budget_bytes = 0;
};

struct ProcessStatistics {
  int64_t resident_bytes = 0;
  int64_t virtual_bytes = 0;
  double cpu_seconds = 0;
  int64_t open_fds = 0;
  int64_t max_fds = 0;
  double start_time_seconds = 0;
};

struct StoreStatistics {
  int64_t transactions = 0;
  int64_t updates = 0;
  int64_t errors = 0;
  DurationDistribution commit_duration;
};

struct SharedMemoryStatistics {
  int64_t sessions = 0;
  int64_t regions = 0;
  int64_t mapped_bytes = 0;
};

struct LayerStatistics {
  std::string name;
  int64_t version = 0;
  int64_t num_batches_tracked = 0;
  int64_t folds = 0;
  int64_t rejected_batches = 0;
  // Of the latest training step that could be compared.
  std::optional<double> mean_drift;
  std::optional<double> variance_drift;
};

struct ServerStatistics {
  std::string server_version;
  std::string instruction_set;
  double uptime_seconds = 0;
  std::vector<MethodStatistics> methods;
  int64_t calls_in_flight = 0;
  int64_t watchers = 0;
  ComputeStatistics compute;
  BufferStatistics buffers;
  ProcessStatistics process;
  StoreStatistics store;
  SharedMemoryStatistics shared_memory;
  int64_t num_layers = 0;
  int64_t folds = 0;
  int64_t rejected_batches = 0;
  int64_t replays = 0;
  // The busiest first.
  std::vector<LayerStatistics> layers;
};

// The least important log lines that a server writes.
enum class LogLevel { kDebug, kInfo, kWarn, kError };

}  // namespace normd

#endif  // NORMD_ADMIN_H_
