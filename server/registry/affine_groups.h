#ifndef NORMD_SERVER_REGISTRY_AFFINE_GROUPS_H_
#define NORMD_SERVER_REGISTRY_AFFINE_GROUPS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/base/mutex.h"
#include "server/registry/change_gate.h"
#include "server/registry/committer.h"
#include "server/registry/layer_entry.h"

namespace normd::registry {

// The layers that share gamma, beta and the optimizer's state (LayerSnapshot::affine_group): a change of these through
// one of them is a change of all, in one transaction. Each layer holds them as if they were its own, so that nobody who
// reads or normalizes has to know. Thread-safe.
class AffineGroups {
 public:
  // Takes over what other servers, if there are any, have changed. REQUIRES: no lock of a layer is held, nor the gate.
  using Follow = std::function<absl::Status()>;

  // All outlive this.
  AffineGroups(ChangeGate* gate, Committer* committer, Follow follow)
      : gate_(gate), committer_(committer), follow_(std::move(follow)) {}

  // What LayerEntry::Commit leaves to this.
  absl::StatusOr<LayerEntry::CommitResult> Commit(const std::shared_ptr<LayerEntry>& entry,
                                                  absl::string_view request_id, uint64_t fingerprint,
                                                  absl::FunctionRef<absl::Status(layer::LayerSnapshot&)> change);

  // Within ChangeTogether: what `changed`, the new version of a layer, means for the others of its group but those in
  // `except`. FAILED_PRECONDITION: one is frozen.
  absl::Status FollowOthers(const layer::LayerSnapshot& changed, const absl::flat_hash_set<std::string>& except_uids,
                            std::vector<Committer::Change>* changes);

  // A layer is in the group, which may be empty: no group.
  void Join(const std::string& group, const std::shared_ptr<LayerEntry>& entry);
  void Leave(const std::string& group, const LayerEntry* entry);

 private:
  ChangeGate* const gate_;
  Committer* const committer_;
  const Follow follow_;
  base::Mutex mutex_;
  absl::flat_hash_map<std::string, std::vector<std::shared_ptr<LayerEntry>>> members_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_AFFINE_GROUPS_H_
