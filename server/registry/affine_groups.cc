#include "server/registry/affine_groups.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/layer/layer_error.h"
#include "server/registry/joint_change.h"

namespace normd::registry {

absl::StatusOr<LayerEntry::CommitResult> AffineGroups::Commit(
    const std::shared_ptr<LayerEntry>& entry, absl::string_view request_id, uint64_t fingerprint,
    absl::FunctionRef<absl::Status(layer::LayerSnapshot&)> change) {
  LayerEntry::CommitResult result;
  const auto make = [&](std::vector<Committer::Change>* changes) -> absl::Status {
    absl::StatusOr<LayerEntry::Plan> plan = entry->PrepareAlone(request_id, fingerprint, change);
    if (!plan.ok()) return plan.status();
    result = std::move(plan->result);
    if (plan->update.IsEmpty()) return absl::OkStatus();
    changes->push_back({entry, std::move(plan->update)});
    if (!plan->concerns_group) return absl::OkStatus();
    return FollowOthers(*result.snapshot, {result.snapshot->uid}, changes);
  };
  // Members that have joined elsewhere. One that joins from here on makes a new version of one that is known.
  if (absl::Status followed = follow_(); !followed.ok()) return followed;
  absl::Status status = ChangeTogether(gate_, committer_, make);
  for (int i = 1; store::IsConflict(status) && i < kMostConflicts; ++i) {
    if (absl::Status followed = follow_(); !followed.ok()) return followed;
    status = ChangeTogether(gate_, committer_, make);
  }
  if (store::IsConflict(status)) return layer::ForLayer(result.snapshot->name, TooManyConflicts());
  if (!status.ok()) return status;
  return result;
}

absl::Status AffineGroups::FollowOthers(const layer::LayerSnapshot& changed,
                                        const absl::flat_hash_set<std::string>& except_uids,
                                        std::vector<Committer::Change>* changes) {
  std::vector<std::shared_ptr<LayerEntry>> members;
  {
    const base::MutexLock lock(&mutex_);
    const auto found = members_.find(changed.affine_group);
    if (found != members_.end()) members = found->second;
  }
  for (std::shared_ptr<LayerEntry>& member : members) {
    if (except_uids.contains(member->Snapshot()->uid)) continue;
    absl::StatusOr<LayerEntry::Plan> plan = member->PrepareAlone("", 0, [&](layer::LayerSnapshot& next) {
      next.affine = changed.affine;
      next.optimizer = changed.optimizer;
      return absl::OkStatus();
    });
    if (!plan.ok()) {
      return layer::ForLayer(changed.name,
                             layer::WithPrefix("shares gamma and beta with another one: ", plan.status()));
    }
    changes->push_back({std::move(member), std::move(plan->update)});
  }
  return absl::OkStatus();
}

void AffineGroups::Join(const std::string& group, const std::shared_ptr<LayerEntry>& entry) {
  if (group.empty()) return;
  const base::MutexLock lock(&mutex_);
  std::vector<std::shared_ptr<LayerEntry>>& members = members_[group];
  if (std::find(members.begin(), members.end(), entry) == members.end()) members.push_back(entry);
}

void AffineGroups::Leave(const std::string& group, const LayerEntry* entry) {
  const base::MutexLock lock(&mutex_);
  const auto found = members_.find(group);
  if (found == members_.end()) return;
  std::erase_if(found->second, [&](const std::shared_ptr<LayerEntry>& member) { return member.get() == entry; });
  if (found->second.empty()) members_.erase(found);
}

}  // namespace normd::registry
