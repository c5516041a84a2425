#ifndef NORMD_ADMIN_H_
#define NORMD_ADMIN_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

// What a server tells those who run it: Client::GetStatistics and Client::SetLogLevel. Plain values with the fields of
// proto/normd/v1/admin_service.proto; counters start at 0 with the server.
namespace normd {
inline namespace abi_0_1 {

// A histogram of durations.
struct DurationDistribution {
  std::vector<double> bounds_seconds;  // Ascending upper bounds of all buckets but the last, in seconds.
  std::vector<int64_t> counts;         // Durations in each bucket: one entry more than there are bounds.
  double sum_seconds = 0;              // Of all durations.
};

// How many calls ended in one way.
struct CodeCount {
  int code = 0;       // A google.rpc.Code, as in absl::StatusCode.
  int64_t count = 0;  // Calls that ended with it.
};

// What the calls of one method came to.
struct MethodStatistics {
  std::string method;             // "TrainStep"; on a stream of steps "Steps.TrainStep".
  std::vector<CodeCount> codes;   // Calls by how they ended.
  DurationDistribution duration;  // From the request's arrival to the answer; of a stream, its whole life.
  int64_t request_bytes = 0;      // Of requests, as they travel.
  int64_t response_bytes = 0;     // Of answers, as they travel.
};

// Calls with large tensors, and calls that were refused with a hint when to come back.
struct ComputeStatistics {
  int64_t waiting_calls = 0;       // Calls that wait for the compute thread now.
  int64_t max_waiting_calls = 0;   // How many may.
  int64_t refused_for_queue = 0;   // Calls refused because that many did.
  int64_t refused_for_memory = 0;  // Calls refused because the memory budget had no room.
  int threads = 0;                 // Cores that one call may use.
};

// Memory of tensors and messages, in bytes.
struct BufferStatistics {
  int64_t in_use_bytes = 0;  // Held by calls now.
  int64_t kept_bytes = 0;    // Kept for the next calls.
  int64_t peak_bytes = 0;    // The most that both were together.
  int64_t budget_bytes = 0;  // The most that both may be together.
};

// What the operating system knows of the process; 0 where it does not say.
struct ProcessStatistics {
  int64_t resident_bytes = 0;     // Memory that is resident.
  int64_t virtual_bytes = 0;      // Address space.
  double cpu_seconds = 0;         // User and system time of all threads.
  int64_t open_fds = 0;           // Open file descriptors.
  int64_t max_fds = 0;            // How many may be.
  double start_time_seconds = 0;  // When the server started, in seconds since 1970.
};

// What the store was given.
struct StoreStatistics {
  int64_t transactions = 0;              // That succeeded.
  int64_t updates = 0;                   // In those.
  int64_t errors = 0;                    // Transactions that failed; none of their changes has happened.
  int64_t conflicts = 0;                 // Those that another server forestalled; they are made again.
  DurationDistribution commit_duration;  // Of all transactions.
};

// What clients have registered now.
struct SharedMemoryStatistics {
  int64_t sessions = 0;      // Open sessions.
  int64_t regions = 0;       // Mapped regions.
  int64_t mapped_bytes = 0;  // Their size.
};

// One layer.
struct LayerStatistics {
  std::string name;                 // As in Layer.
  int64_t version = 0;              // The newest.
  int64_t num_batches_tracked = 0;  // As in LayerState.
  int64_t folds = 0;                // Training steps and merges since the server started.
  int64_t rejected_batches = 0;     // As in ServerStatistics.
  // How far the batch of the latest training step was from the running statistics before it, the largest of all
  // channels: |batch_mean - running_mean| / sqrt(running_var + eps). Absent: no step could be compared.
  std::optional<double> mean_drift;
  // The same of variances: |ln((batch_var + eps) / (running_var + eps))|.
  std::optional<double> variance_drift;
};

// What Client::GetStatistics returns.
struct ServerStatistics {
  std::string server_version;             // Of the server's program.
  std::string instruction_set;            // Of its kernels: "avx512", "avx2", "baseline".
  double uptime_seconds = 0;              // Since the server started.
  std::vector<MethodStatistics> methods;  // Those that have been called, by name.
  int64_t calls_in_flight = 0;            // Begun and not answered; a call on a stream of steps counts.
  int64_t watchers = 0;                   // Open watches.
  ComputeStatistics compute;              // The thread that computes large tensors.
  BufferStatistics buffers;               // Memory of tensors and messages.
  ProcessStatistics process;              // The operating system's view.
  StoreStatistics store;                  // Where changes are kept.
  SharedMemoryStatistics shared_memory;   // All 0 if shared memory is off.
  int64_t num_layers = 0;                 // Layers there are.
  int64_t folds = 0;                      // Training steps and merges folded in, in all layers, deleted ones included.
  int64_t rejected_batches = 0;           // Refused for NaN or infinity (NonFinitePolicy::kReject).
  int64_t replays = 0;                    // Calls recognised as repetitions.
  std::vector<LayerStatistics> layers;    // Those with the most folds, the busiest first.
};

// The least important log lines that a server writes.
enum class LogLevel {
  kDebug,  // A line for each call, too.
  kInfo,   // Starts, stops, settings.
  kWarn,   // What to look at some time.
  kError,  // What went wrong through no fault of a client.
};

}  // namespace abi_0_1
}  // namespace normd

#endif  // NORMD_ADMIN_H_
