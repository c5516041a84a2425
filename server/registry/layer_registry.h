#ifndef NORMD_SERVER_REGISTRY_LAYER_REGISTRY_H_
#define NORMD_SERVER_REGISTRY_LAYER_REGISTRY_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/base/clock.h"
#include "server/layer/layer_config.h"
#include "server/layer/layer_state.h"
#include "server/registry/layer_directory.h"
#include "server/registry/layer_entry.h"
#include "server/registry/recent_versions.h"
#include "server/registry/request_log.h"
#include "server/store/state_store.h"

namespace normd::registry {

struct RegistryOptions {
  // More layers than this are refused with RESOURCE_EXHAUSTED.
  int64_t max_layers = 100'000;
  // More channels than this in one layer are refused with INVALID_ARGUMENT.
  int64_t max_channels = 1'048'576;
  RequestLimits requests;
  VersionLimits versions;
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
  // Names of LayerConfig fields: eps, update_weight, normalize_training_with, clip, non_finite_policy, frozen.
  std::vector<std::string> fields;
};

struct ForkSpec {
  std::string name;
  std::string new_name;
  // 0: the newest.
  int64_t version = 0;
  bool share_affine = false;
  bool reset_statistics = false;
  std::string request_id;
};

// All layers of a server by name, and their life: create, read, change, fork, delete. What tensors do with a layer
// stands in training.h and inference.h. Thread-safe. Mutations of one layer are linearizable; reads return an immutable
// snapshot and never wait for a running training step. Statuses as proto/normd/v1/layer_service.proto says; on an error
// nothing has changed. A `request_id` may be empty.
class LayerRegistry {
 public:
  using SnapshotPtr = std::shared_ptr<const layer::LayerSnapshot>;

  // `clock` and `store` outlive the registry. Load comes before anything else.
  LayerRegistry(const RegistryOptions& options, const base::Clock& clock, store::StateStore* store);

  // Takes over what is stored. Statuses of StateStore::Load.
  absl::Status Load() { return directory_.Load(); }

  // These return when the change is stored.
  absl::StatusOr<SnapshotPtr> Create(const CreateLayerSpec& spec);
  // `version`: see LayerEntry::SnapshotAt.
  absl::StatusOr<SnapshotPtr> Get(absl::string_view name, int64_t version = 0) const;
  // As LayerDirectory::List.
  ListPage List(absl::string_view prefix, absl::string_view after, int page_size,
                LayerDirectory::NameFilter wanted = LayerDirectory::EveryName) const {
    return directory_.List(prefix, after, page_size, wanted);
  }
  // An empty etag, and an expected_version of 0, fit everything.
  absl::StatusOr<SnapshotPtr> Update(absl::string_view name, const ConfigUpdate& update, absl::string_view etag,
                                     absl::string_view request_id);
  absl::Status Delete(absl::string_view name, absl::string_view etag, absl::string_view request_id);
  absl::StatusOr<SnapshotPtr> ResetStatistics(absl::string_view name, int64_t expected_version,
                                              absl::string_view request_id);
  absl::StatusOr<SnapshotPtr> SetState(absl::string_view name, const layer::StateUpdate& update,
                                       int64_t expected_version, absl::string_view request_id);

  absl::StatusOr<SnapshotPtr> Fork(const ForkSpec& spec);

  // The layer itself, for training.h. NOT_FOUND: no such layer, nor has another server made one.
  absl::StatusOr<std::shared_ptr<LayerEntry>> Find(absl::string_view name) const;

  int64_t size() const { return directory_.size(); }

  const RegistryOptions& options() const { return options_; }
  LayerDirectory* directory() { return &directory_; }
  Committer* committer() const { return directory_.committer(); }

 private:
  // Makes a layer that `first` returns, within LayerDirectory::Change.
  absl::StatusOr<SnapshotPtr> Make(
      const std::string& name, const std::string& request_id, uint64_t fingerprint, LayerDirectory::Scope scope,
      absl::FunctionRef<absl::StatusOr<SnapshotPtr>(LayerDirectory::LifecycleChange*)> first);

  const RegistryOptions options_;
  // Find learns what is there, and changes nothing of it.
  mutable LayerDirectory directory_;
};

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_LAYER_REGISTRY_H_
