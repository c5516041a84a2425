#ifndef NORMD_CLIENT_CLI_BENCH_TARGET_H_
#define NORMD_CLIENT_CLI_BENCH_TARGET_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/bench_options.h"
#include "normd/client.h"
#include "normd/tensor.h"

namespace normd::cli {

// What a load is put on. The loops know nothing else of the SDK, so a faster way to call stays in here.
class BenchTarget {
 public:
  // The bytes of elements that came back.
  using Done = std::function<void(absl::StatusOr<int64_t>)>;

  virtual ~BenchTarget() = default;

  // Starts one call and returns at once; `done` runs once, on another thread, and may start the next call. `lane`
  // numbers the callers: calls of one lane share a connection. Thread-safe.
  virtual void Start(const BenchStep& step, std::size_t lane, Done done) = 0;
};

// A normd server, over `connections` clients without retries: a call that fails is to be counted, not hidden. Holds one
// input for each shape, made before the first call and shared by all calls. Thread-safe.
class ServerTarget : public BenchTarget {
 public:
  // `layer`: the name to call with.
  ServerTarget(const std::string& server, ClientOptions client_options, const BenchOptions& options, std::string layer);
  // Waits for the calls that are under way.
  ~ServerTarget() override = default;

  void Start(const BenchStep& step, std::size_t lane, Done done) override;

 private:
  const std::string layer_;
  // Declared before the clients, which wait for their calls when they go.
  std::vector<std::string> inputs_;
  std::vector<TensorView> views_;
  std::vector<std::unique_ptr<Client>> clients_;
};

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_BENCH_TARGET_H_
