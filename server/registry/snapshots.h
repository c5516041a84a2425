#ifndef NORMD_SERVER_REGISTRY_SNAPSHOTS_H_
#define NORMD_SERVER_REGISTRY_SNAPSHOTS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/base/mutex.h"
#include "server/registry/layer_registry.h"
#include "server/store/state_store.h"

namespace normd::registry {

struct SnapshotSpec {
  std::string name;
  // This layer or, if it is empty, all whose name starts with `prefix`.
  std::string layer;
  std::string prefix;
  std::string request_id;
};

// Which layers are brought back, and under which names.
struct RestoreSelection {
  std::string layer;
  std::string prefix;
  // With `layer` its name, otherwise what takes the place of `prefix`.
  std::optional<std::string> new_name;
};

// Named snapshots of layers, and copies of the whole store. Statuses as proto/normd/v1/snapshot_service.proto says; on
// an error nothing has changed. Thread-safe.
class Snapshots {
 public:
  static constexpr std::size_t kMaxSnapshots = 1000;

  // Outlives this. Load comes before anything else.
  explicit Snapshots(LayerRegistry* registry);
  ~Snapshots() { directory_->set_snapshots_listener(nullptr); }
  Snapshots(const Snapshots&) = delete;
  Snapshots& operator=(const Snapshots&) = delete;

  // Takes over what is stored, after the layers.
  absl::Status Load();

  absl::StatusOr<store::SnapshotInfo> Create(const SnapshotSpec& spec);
  // NOT_FOUND: there is none.
  absl::StatusOr<store::SnapshotInfo> Find(const std::string& name) const;
  // By name in byte order.
  std::vector<store::SnapshotInfo> List(absl::string_view prefix) const;
  absl::Status Delete(const std::string& name, absl::string_view request_id);
  // Returns how many layers are brought back.
  absl::StatusOr<int64_t> Restore(const std::string& name, const RestoreSelection& selection,
                                  absl::string_view request_id);
  // The same with the layers in a file that Backup has made. FAILED_PRECONDITION: it is none, or of a newer normd.
  // DATA_LOSS: it is damaged.
  absl::StatusOr<int64_t> RestoreBackup(const std::string& path, const RestoreSelection& selection);

  // Copies the store to a file at `path`, which must not exist, while changes go on. `check_alive` is asked now and
  // then whether to go on.
  absl::Status Backup(const std::string& path, absl::FunctionRef<absl::Status()> check_alive);

 private:
  struct Stored {
    std::vector<LayerRegistry::SnapshotPtr> layers;
    // Of the layers.
    std::vector<store::RequestRecord> requests;
  };

  void Replace(std::vector<store::SnapshotInfo> infos);
  // Within LayerDirectory::Change.
  absl::Status Plan(const Stored& stored, const RestoreSelection& selection, absl::string_view subject,
                    LayerDirectory::LifecycleChange* change) const;
  // A new version of a layer that is here; null: it is the same already. `requests` are those that the source knows.
  static absl::StatusOr<LayerRegistry::SnapshotPtr> PlanVersion(const layer::LayerSnapshot& target,
                                                                const std::vector<store::RequestRecord>& requests,
                                                                const std::shared_ptr<LayerEntry>& entry,
                                                                LayerDirectory::LifecycleChange* change);
  // Makes of a layer of long ago the first version of one that comes.
  void PrepareFirst(bool renamed, layer::LayerSnapshot* first) const;

  LayerRegistry* const registry_;
  LayerDirectory* const directory_;
  mutable base::Mutex mutex_;
  std::map<std::string, store::SnapshotInfo, std::less<>> infos_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_SNAPSHOTS_H_
