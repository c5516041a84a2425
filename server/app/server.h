#ifndef NORMD_SERVER_APP_SERVER_H_
#define NORMD_SERVER_APP_SERVER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/wire/buffer_pool.h"
#include "server/access/access_control.h"
#include "server/app/logger.h"
#include "server/app/tls_files.h"
#include "server/registry/layer_registry.h"
#include "server/store/open_store.h"

namespace normd::app {

// Defaults are those of the command line; deploy/normd.toml explains each.
struct ServerOptions {
  // HOST:PORT; port 0 picks a free one; empty: no TCP.
  std::string listen = "127.0.0.1:50051";
  // Of `listen`; those who use the Unix socket need none.
  TlsOptions tls;
  // Who may do what, wherever he comes from.
  access::AccessOptions access;
  // Whether `listen` may be an address that other machines reach although not both TLS and a way to tell who calls are
  // set.
  bool insecure = false;
  // Path; empty: no Unix socket.
  std::string unix_socket;
  // Largest request, in bytes as it travels. More than two sevenths of the memory budget are taken for so many: a
  // larger one never fits.
  int64_t max_message_bytes = 256 << 20;
  // Calls, streams among them, that one connection may have at a time; more wait.
  int max_streams_per_connection = 1000;
  registry::RegistryOptions limits;
  // Where the layers are kept.
  store::StoreOptions store;
  // Cores that one call may use; 0: what the affinity mask and the cgroup quota allow.
  int threads = 0;
  // Tensors and messages in memory at a time, in bytes; 0: half of what the machine and the control groups allow.
  int64_t memory_budget_bytes = 0;
  // Calls with large tensors that may wait for the compute thread, each holding its tensors in memory.
  int64_t max_waiting_calls = 256;
  // Whether clients may register regions of shared memory.
  bool shared_memory = false;
  // Whether clients of the Open Inference Protocol may register regions by name alone, without a proof that they may
  // write to them. Needs shared_memory.
  bool open_inference_shared_memory = false;
  // Most bytes of theirs that are mapped at a time.
  int64_t max_shared_memory_bytes = int64_t{4} << 30;
  // Memory kept for the next call goes back to the system when none has used it for this long; zero: never.
  absl::Duration release_memory_after = absl::Seconds(10);
  // HOST:PORT of the HTTP server for Prometheus; port 0 picks a free one; empty: none.
  std::string metrics_listen;
  // Layers that have metrics of their own.
  int metrics_max_layers = 100;
  // A call that takes longer is logged as slow.
  absl::Duration log_slow_calls_after = absl::InfiniteDuration();
};

// INVALID_ARGUMENT: there is no address at all, or one that is no address, or one beyond loopback where, without
// `insecure`, whoever listens in or comes by would have to be kept out.
absl::Status CheckListening(const ServerOptions& options);

// A running normd: registry, shared memory, compute thread, services, health, reflection and the sockets. Owns all of
// them. Order of calls: Start, then anything, then Shutdown or the destructor. Thread-safe but for the destructor.
class Server {
 public:
  // Listens on every address and serves. On failure nothing is left behind, and the status names the address and the
  // cause. `logger` outlives the server.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options, Logger* logger);
  // Shutdown(0) if it has not been called.
  virtual ~Server() = default;

  // Where it listens: "127.0.0.1:41234", "unix:/run/normd.sock".
  virtual const std::vector<std::string>& addresses() const = 0;

  // "http://127.0.0.1:41234/metrics"; empty: there is none.
  virtual const std::string& metrics_url() const = 0;

  // Calls with large tensors that wait for the compute thread.
  virtual std::size_t waiting_calls() const = 0;

  // Memory of the calls.
  virtual wire::BufferPool& buffers() = 0;

  // Largest request: what the options say, as far as the memory budget allows it.
  virtual int64_t max_message_bytes() const = 0;

  // Bytes of shared memory that are mapped.
  virtual int64_t shared_memory_bytes() const = 0;

  // Says NOT_SERVING to health checks and to those who watch, ends the sessions of shared memory, takes no more calls,
  // waits for the running ones until `drain_timeout` is over, and cancels the rest. Returns when no call runs any more;
  // clients that are connected and do nothing hold it up by some 0.2 s at most. Once.
  virtual void Shutdown(absl::Duration drain_timeout) = 0;
};

}  // namespace normd::app

#endif  // NORMD_SERVER_APP_SERVER_H_
