#ifndef NORMD_SERVER_REGISTRY_LAYER_REGISTRY_H_
#define NORMD_SERVER_REGISTRY_LAYER_REGISTRY_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/layer/layer_config.h"
#include "server/layer/layer_state.h"
#include "server/registry/committer.h"
#include "server/registry/layer_entry.h"
#include "server/registry/request_log.h"
#include "server/store/state_store.h"

namespace normd::registry {

struct RegistryOptions {
  // More layers than this are refused with RESOURCE_EXHAUSTED.
  int64_t max_layers = 100'000;
  // More channels than this in one layer are refused with INVALID_ARGUMENT.
  int64_t max_channels = 1'048'576;
  RequestLimits requests;
};

struct CreateLayerSpec {
  std::string name;
  std::string preset;
  layer::LayerConfig config;
  layer::StateUpdate initial_state;
  std::string request_id;
};

// Which fields of `values` an update takes over.
struct ConfigUpdate {
  layer::LayerConfig values;
  // Names of LayerConfig fields: eps, update_weight, normalize_training_with, clip, non_finite_policy.
  std::vector<std::string> fields;
};

struct ListPage {
  std::vector<std::shared_ptr<const layer::LayerSnapshot>> layers;
  // Name to go on after; empty: nothing follows.
  std::string last_name;
};

// All layers of a server by name, and their life: create, read, change, delete. What tensors do with a layer stands in
// training.h and inference.h. Thread-safe. Mutations of one layer are linearizable; reads return an immutable snapshot
// and never wait for a running training step. Statuses as proto/normd/v1/layer_service.proto says; on an error nothing
// has changed. A `request_id` may be empty.
class LayerRegistry {
 public:
  using SnapshotPtr = std::shared_ptr<const layer::LayerSnapshot>;

  // `clock` and `store` outlive the registry. Load comes before anything else.
  LayerRegistry(const RegistryOptions& options, const base::Clock& clock, store::StateStore* store);
  ~LayerRegistry();

  // Takes over what is stored. Statuses of StateStore::Load.
  absl::Status Load();

  // These return when the change is stored.
  absl::StatusOr<SnapshotPtr> Create(const CreateLayerSpec& spec);
  absl::StatusOr<SnapshotPtr> Get(absl::string_view name) const;
  // Up to `page_size` layers in byte order whose name starts with `prefix` and comes after `after`.
  ListPage List(absl::string_view prefix, absl::string_view after, int page_size) const;
  // An empty etag, and an expected_version of 0, fit everything.
  absl::StatusOr<SnapshotPtr> Update(absl::string_view name, const ConfigUpdate& update, absl::string_view etag,
                                     absl::string_view request_id);
  absl::Status Delete(absl::string_view name, absl::string_view etag, absl::string_view request_id);
  absl::StatusOr<SnapshotPtr> ResetStatistics(absl::string_view name, int64_t expected_version,
                                              absl::string_view request_id);
  absl::StatusOr<SnapshotPtr> SetState(absl::string_view name, const layer::StateUpdate& update,
                                       int64_t expected_version, absl::string_view request_id);

  // The layer itself, for training.h. NOT_FOUND: no such layer.
  absl::StatusOr<std::shared_ptr<LayerEntry>> Find(absl::string_view name) const;

  int64_t size() const;

 private:
  // Of a creation or deletion.
  absl::Status StoreLifecycle(store::Update update) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lifecycle_mutex_);

  const RegistryOptions options_;
  store::StateStore* const store_;
  std::atomic<int64_t> remembered_requests_ = 0;
  // Held over a whole creation or deletion, which may wait for a commit; taken before mutex_.
  base::Mutex lifecycle_mutex_;
  // Creations and deletions.
  RequestLog requests_ ABSL_GUARDED_BY(lifecycle_mutex_);
  // Held for a look into the map only.
  mutable base::SharedMutex mutex_;
  absl::btree_map<std::string, std::shared_ptr<LayerEntry>> layers_ ABSL_GUARDED_BY(mutex_);
  // Last: it publishes to the layers until it is gone.
  Committer committer_;
  const LayerContext context_;
};

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_LAYER_REGISTRY_H_
