#ifndef NORMD_TESTS_BENCHMARKS_RPC_CALLER_H_
#define NORMD_TESTS_BENCHMARKS_RPC_CALLER_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/benchmarks/rpc/workload.h"

namespace normd::benchmarks {

// A way to call a server, always with the same request. Lanes are independent of each other; a lane has one call at a
// time, and may start the next one inside the `done` of the last.
class Caller {
 public:
  using Done = std::function<void(absl::Status)>;

  virtual ~Caller() = default;

  // Connects, makes the layer if the server has none, and compares one answer with what it must be.
  virtual absl::Status Prepare() = 0;
  // One call. `done` runs once: before Call returns if blocking(), else later on another thread.
  virtual void Call(int lane, Done done) = 0;
  virtual bool blocking() const = 0;
};

struct CallerOptions {
  // "host:port" or "unix:/path".
  std::string target;
  // What is called; one of CallNames().
  std::string call;
  std::vector<int64_t> shape;
  int lanes = 1;
};

// echo-raw, echo-protobuf, torch-infer, torch-train, normd-infer, normd-train.
std::vector<std::string> CallNames();
// How it is called:
//   raw        a serialized request as a byte buffer through the callback API; the answer's bytes are dropped unread.
//              The same cost for every server.
//   stub       echo-protobuf by generated code through the callback API, as one calls a service without an SDK
//   sdk-sync   normd's C++ SDK, a thread for each lane
//   sdk-async  normd's C++ SDK, asynchronous
//   sdk-shm    as sdk-sync, with tensors in shared memory that nobody copies
std::vector<std::string> ModeNames();

// INVALID_ARGUMENT: no such mode or call, or the mode cannot make this call.
absl::StatusOr<std::unique_ptr<Caller>> MakeCaller(const std::string& mode, const CallerOptions& options);

// Of the modes.
absl::StatusOr<std::unique_ptr<Caller>> MakeRawCaller(const CallerOptions& options);
absl::StatusOr<std::unique_ptr<Caller>> MakeStubCaller(const CallerOptions& options);
absl::StatusOr<std::unique_ptr<Caller>> MakeSdkSyncCaller(const CallerOptions& options);
absl::StatusOr<std::unique_ptr<Caller>> MakeSdkAsyncCaller(const CallerOptions& options);
absl::StatusOr<std::unique_ptr<Caller>> MakeSdkSharedMemoryCaller(const CallerOptions& options);

}  // namespace normd::benchmarks

#endif  // NORMD_TESTS_BENCHMARKS_RPC_CALLER_H_
