#ifndef NORMD_CLIENT_CLI_BENCH_TARGET_H_
#define NORMD_CLIENT_CLI_BENCH_TARGET_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
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

// A normd server, over `connections` clients without retries: a call that fails is to be counted, not hidden. Holds an
// input for each client and shape, made before the first call and sent without a copy. Thread-safe.
class ServerTarget : public BenchTarget {
 public:
  // `layer`: the name to call with. RESOURCE_EXHAUSTED: no memory for the inputs.
  static absl::StatusOr<std::unique_ptr<ServerTarget>> Create(const std::string& server, ClientOptions client_options,
                                                              const BenchOptions& options, std::string layer);
  // Waits for the calls that are under way.
  ~ServerTarget() override = default;

  void Start(const BenchStep& step, std::size_t lane, Done done) override;

 private:
  explicit ServerTarget(std::string layer) : layer_(std::move(layer)) {}

  const std::string layer_;
  // Declared before the clients, which wait for their calls when they go. One for each client and shape: memory that is
  // shared with the server belongs to one client.
  std::vector<std::vector<Tensor>> inputs_;
  std::vector<std::unique_ptr<Client>> clients_;
};

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_BENCH_TARGET_H_
