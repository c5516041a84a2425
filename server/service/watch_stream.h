#ifndef NORMD_SERVER_SERVICE_WATCH_STREAM_H_
#define NORMD_SERVER_SERVICE_WATCH_STREAM_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <chrono>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "normd/v1/layer_service.pb.h"
#include "server/base/mutex.h"
#include "server/registry/layer_registry.h"
#include "server/service/unary_call.h"

namespace normd::service {

// What a WatchLayers call asks for, checked.
struct WatchSpec {
  // Empty: all that start with `prefix`.
  std::vector<std::string> names;
  std::string prefix;
  v1::LayerView view = v1::LAYER_VIEW_STATE;
  std::chrono::nanoseconds min_interval{0};
  // Uid and version by name.
  absl::flat_hash_map<std::string, std::pair<std::string, int64_t>> known;
};

// Statuses as proto/normd/v1/layer_service.proto says.
absl::StatusOr<WatchSpec> ToWatchSpec(const v1::WatchLayersRequest& request, const access::Caller& caller,
                                      const registry::LayerRegistry& registry);

class WatchStream;

// The open streams, so that a server that stops can end them. Thread-safe.
class WatchStreams {
 public:
  // Each ends with UNAVAILABLE; so do those that come later.
  void Stop();

  int64_t size() const;

 private:
  friend class WatchStream;
  mutable base::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_set<WatchStream*> streams_ ABSL_GUARDED_BY(mutex_);
};

// One WatchLayers call. What is to be sent is looked up when it can be sent, so that a slow reader gets the newest
// version, and the stream holds names only. Deletes itself.
class WatchStream final : public grpc::ServerWriteReactor<v1::WatchLayersResponse>, registry::WatchHub::Watcher {
 public:
  // All outlive the stream. What `caller` may not read any more it does not send.
  WatchStream(grpc::CallbackServerContext* context, access::Caller caller, int64_t request_bytes,
              absl::StatusOr<WatchSpec> spec, registry::LayerRegistry* registry, WatchStreams* open,
              CallObserver* observer);

  // For WatchStreams.
  void Stop();

 private:
  using Clock = registry::WatchHub::Clock;

  // What the client has of a layer, and when it may get more.
  struct Sent {
    std::string uid;
    int64_t version = 0;
    Clock::time_point due = Clock::time_point::min();
  };

  Clock::time_point Wake(absl::Span<const std::string> changed, Clock::time_point now) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  bool Watches(const std::string& name) const;
  void Enqueue(const std::string& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Starts to send what may be sent next, if anything. True: the hub has to call at another time than it knows.
  bool Proceed(Clock::time_point now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Puts into response_ what the client does not have of the layer; false: nothing.
  bool Fill(const std::string& name, Clock::time_point now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Ends the call, once; nothing is sent any more.
  void End(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  grpc::CallbackServerContext* const context_;
  const access::Caller caller_;
  const int64_t request_bytes_;
  CallObserver* const observer_;
  const Clock::time_point start_ = Clock::now();
  registry::LayerRegistry* const registry_;
  WatchStreams* const open_;
  WatchSpec spec_;
  absl::flat_hash_set<std::string> names_;

  base::Mutex mutex_;
  v1::WatchLayersResponse response_ ABSL_GUARDED_BY(mutex_);
  // Sent so far.
  int64_t response_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_map<std::string, Sent> sent_ ABSL_GUARDED_BY(mutex_);
  // To be looked at, each once.
  std::deque<std::string> queue_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<std::string> queued_ ABSL_GUARDED_BY(mutex_);
  // To be looked at when it is time.
  absl::btree_set<std::pair<Clock::time_point, std::string>> later_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_WATCH_STREAM_H_
